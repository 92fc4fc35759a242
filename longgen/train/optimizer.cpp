#include "longgen/train/optimizer.h"

#include <cmath>

#include "longgen/backend/stochastic_rounding.h"
#include "longgen/base/error.h"

namespace longgen::train {
namespace {

DType state_dtype(DType activation, const OptimizerOptions& options) {
  if (!options.bf16_state) return accumulation_dtype(activation);
  require(activation == DType::kBF16,
          "optimizer state in bf16 goes with weights in bf16, not with {}", dtype_name(activation));
  return DType::kBF16;
}

}  // namespace

Optimizer::Optimizer(const model::ModelConfig& config, DType activation, Backend& backend,
                     const OptimizerOptions& options, MemoryResource& memory)
    : backend_(backend),
      options_(options),
      master_(options.bf16_state ? "weights" : "master weights", config,
              state_dtype(activation, options), memory),
      gradients_("gradients", config, accumulation_dtype(activation), memory),
      first_moment_("first moment", config, master_.dtype(), memory),
      second_moment_("second moment", config, master_.dtype(), memory) {
  if (activation != master_.dtype()) {
    weights_ = std::make_unique<model::ParameterSet>("weights", config, activation, memory);
  }
}

int64_t Optimizer::bytes() const {
  return master_.bytes() + gradients_.bytes() + first_moment_.bytes() + second_moment_.bytes() +
         (weights_ ? weights_->bytes() : 0);
}

std::vector<model::MemoryItem> Optimizer::memory_items() const {
  std::vector<model::MemoryItem> items;
  const auto add = [&](const char* name, const model::ParameterSet& set) {
    items.push_back({fmt::format("{}, {}", name, dtype_name(set.dtype())), set.bytes()});
  };
  add("weights", weights());
  if (weights_) add("master weights", master_);
  add("first moment", first_moment_);
  add("second moment", second_moment_);
  add("gradient accumulators", gradients_);
  return items;
}

void Optimizer::publish_master() {
  if (!weights_) return;
  for (size_t i = 0; i < master_.tensors().size(); ++i) {
    backend_.copy(weights_->tensors()[i], master_.tensors()[i]);
  }
}

void Optimizer::zero_gradients() {
  for (const Tensor& gradient : gradients_.tensors()) backend_.zero(gradient);
}

double Optimizer::gradient_norm() const {
  double sum = 0;
  for (size_t i = 0; i < gradients_.tensors().size(); ++i) {
    const double own = backend_.sum_of_squares(gradients_.tensors()[i]);
    if (!std::isfinite(own)) {
      fail("the gradient of {} is not finite; lower train.lr, or look for damaged weights",
           gradients_.specs()[i].name);
    }
    sum += own;
  }
  return std::sqrt(sum);
}

double Optimizer::step(double lr, int64_t update) {
  const double norm = gradient_norm();
  AdamW args{.lr = lr,
             .beta1 = options_.beta1,
             .beta2 = options_.beta2,
             .eps = options_.eps,
             .step = update};
  if (options_.clip > 0 && norm > options_.clip) args.gradient_scale = options_.clip / norm;
  for (size_t i = 0; i < master_.tensors().size(); ++i) {
    if (!weights().specs()[i].trainable) continue;  // neither gradient nor decay moves it
    args.weight_decay = master_.specs()[i].decay ? options_.weight_decay : 0;
    apply(i, args);
  }
  return norm;
}

void Optimizer::apply(size_t i, const AdamW& args) {
  const Tensor &master = master_.tensors()[i], &gradient = gradients_.tensors()[i];
  const Tensor &m = first_moment_.tensors()[i], &v = second_moment_.tensors()[i];
  if (options_.bf16_state) {
    backend_.adamw_step_bf16(master, m, v, gradient, args,
                             rounding_of(options_.seed, args.step, static_cast<int64_t>(i)));
  } else {
    backend_.adamw_step(weights().tensors()[i], master, m, v, gradient, args);
  }
}

}  // namespace longgen::train
