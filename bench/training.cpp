#include "bench/training.h"

#include <vector>

#include "bench/shapes.h"
#include "longgen/base/error.h"
#include "longgen/base/system.h"
#include "longgen/base/units.h"
#include "longgen/train/optimizer.h"

namespace longgen::bench {
namespace {

constexpr double kLearningRate = 1e-5;

std::string recomputed_name(const model::TrainOptions& options) {
  if (!options.recompute) return "none";
  return options.recompute_attention ? "all" : "mlp";
}

train::OptimizerOptions optimizer_options() { return {.weight_decay = 0.1, .clip = 1}; }

}  // namespace

int64_t train_bytes(const model::ModelConfig& config, const TrainCase& c, Backend& backend) {
  NoMemory nothing;
  const train::Optimizer optimizer(config, c.dtype, backend, optimizer_options(), nothing);
  const model::TrainingPass pass(config, optimizer.weights(), backend, c.tokens, c.pass, nothing);
  return optimizer.bytes() + pass.arena().high_water_bytes();
}

Measurement measure_train_step(const model::ModelConfig& config, const TrainCase& c,
                               Backend& backend, const Repeats& repeats) {
  require(c.tokens >= 2, "a training step of {} tokens; at least 2 are needed", c.tokens);
  reset_peak_resident();
  train::Optimizer optimizer(config, c.dtype, backend, optimizer_options(), backend.memory());
  fill_random(optimizer.master(), c.seed);
  optimizer.publish_master();
  model::TrainingPass pass(config, optimizer.weights(), backend, c.tokens, c.pass,
                           backend.memory());
  const std::vector<int32_t> ids = random_ids(c.tokens + 1, config.vocab_size, c.seed);
  const std::span<const int32_t> all(ids);
  const auto n = static_cast<size_t>(c.tokens);
  const model::PackedSequence sequence{all.first(n), all.subspan(1, n), {}};
  int64_t update = 0;
  double loss = 0;
  const auto step = [&] {
    optimizer.zero_gradients();
    const double scale = 1 / static_cast<double>(c.tokens);
    loss = pass.forward_backward(sequence, scale, optimizer.gradients()).loss * scale;
    optimizer.step(kLearningRate, ++update);
  };
  step();  // warm-up: memory is touched
  start_breakdown(backend);
  Measurement m;
  m.timing = measure(step, repeats);
  finish_breakdown(backend, m.timing.total(), m);
  m.resident_bytes = peak_resident_bytes();
  m.tokens = static_cast<double>(c.tokens);
  m.flops = model::count_flops(config, c.tokens).train;
  m.dtype = c.dtype;
  const std::string recomputed = recomputed_name(c.pass);
  m.name = fmt::format("train step {}, recompute {}", format_length(c.tokens), recomputed);
  m.parameters = {{"tokens", c.tokens},
                  {"recompute", recomputed},
                  {"last_loss", loss},
                  {"planned_bytes", train_bytes(config, c, backend)}};
  return m;
}

}  // namespace longgen::bench
