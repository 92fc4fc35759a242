#include "longgen/train/optimizer.h"

#include <cmath>

#include "longgen/base/error.h"

namespace longgen::train {

Optimizer::Optimizer(const model::ModelConfig& config, DType activation, Backend& backend,
                     const OptimizerOptions& options, MemoryResource& memory)
    : backend_(backend),
      options_(options),
      master_("master weights", config, accumulation_dtype(activation), memory),
      gradients_("gradients", config, accumulation_dtype(activation), memory),
      first_moment_("first moment", config, accumulation_dtype(activation), memory),
      second_moment_("second moment", config, accumulation_dtype(activation), memory) {
  if (activation != accumulation_dtype(activation)) {
    weights_ = std::make_unique<model::ParameterSet>("weights", config, activation, memory);
  }
}

int64_t Optimizer::bytes() const {
  return master_.bytes() + gradients_.bytes() + first_moment_.bytes() + second_moment_.bytes() +
         (weights_ ? weights_->bytes() : 0);
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
    backend_.adamw_step(weights().tensors()[i], master_.tensors()[i], first_moment_.tensors()[i],
                        second_moment_.tensors()[i], gradients_.tensors()[i], args);
  }
  return norm;
}

}  // namespace longgen::train
