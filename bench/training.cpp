#include "bench/training.h"

#include <vector>

#include "bench/shapes.h"
#include "longgen/backend/memory_use.h"
#include "longgen/base/error.h"
#include "longgen/base/system.h"
#include "longgen/base/units.h"
#include "longgen/train/memory_plan.h"
#include "longgen/train/optimizer.h"

namespace longgen::bench {
namespace {

constexpr double kLearningRate = 1e-5;

// "recompute all, full outputs kept, bf16 state, activations offloaded"
std::string policy_name(const TrainCase& c) {
  using model::KeptOutputs;
  using model::Offload;
  std::string name = "recompute none";
  if (c.pass.recompute) name = c.pass.recompute_attention ? "recompute all" : "recompute mlp";
  if (c.pass.keep_outputs == KeptOutputs::kFullLayers) name += ", full outputs kept";
  if (c.pass.keep_sparse > 0) name += fmt::format(" and {} sparse", c.pass.keep_sparse);
  if (c.pass.keep_outputs == KeptOutputs::kAllLayers) name += ", outputs kept";
  if (c.bf16_state) name += ", bf16 state";
  if (c.pass.offload == Offload::kOutputs) name += ", outputs offloaded";
  if (c.pass.offload == Offload::kInputsAndOutputs) name += ", activations offloaded";
  return name;
}

train::TrainerOptions trainer_options(const TrainCase& c) {
  return {.length = c.tokens,
          .optimizer = {.weight_decay = 0.1, .clip = 1, .bf16_state = c.bf16_state, .seed = c.seed},
          .pass = c.pass};
}

nlohmann::json plan_json(const train::MemoryPlan& plan) {
  nlohmann::json items = nlohmann::json::array();
  for (const model::MemoryItem& item : plan.items) {
    items.push_back({{"name", item.name}, {"bytes", item.bytes}, {"offloaded", item.offloaded}});
  }
  return items;
}

}  // namespace

Measurement measure_train_step(const model::ModelConfig& config, const TrainCase& asked,
                               Backend& backend, const Repeats& repeats) {
  require(asked.tokens >= 2, "a training step of {} tokens; at least 2 are needed", asked.tokens);
  const MemoryUse memory(backend);
  TrainCase c = asked;
  train::TrainerOptions options = trainer_options(c);
  c.pass = options.pass = train::keep_more(config, backend, c.dtype, options, c.memory);
  const train::MemoryPlan plan =
      train::check_memory(config, backend, c.dtype, options, train::available_memory(backend));
  const double start = monotonic_seconds();
  train::Optimizer optimizer(config, c.dtype, backend, options.optimizer, backend.memory());
  fill_random(optimizer.master(), c.seed, &backend);
  optimizer.publish_master();
  model::TrainingPass pass(config, optimizer.weights(), backend, c.tokens, c.pass, backend.memory(),
                           &backend.offload_memory());
  backend.synchronize();
  const double set_up = monotonic_seconds() - start;
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
    backend.synchronize();
  };
  if (c.warm_up) step();  // memory is touched, products choose their kernels
  start_breakdown(backend);
  Measurement m;
  m.timing = measure(step, repeats);
  finish_breakdown(backend, m.timing.total(), m);
  // On a device nothing is given back before a step is over.
  m.resident_bytes = memory.bytes(/*before=*/0);
  m.tokens = static_cast<double>(c.tokens);
  m.flops = model::count_flops(config, c.tokens).train;
  m.dtype = c.dtype;
  const std::string policy = policy_name(c);
  m.name = fmt::format("train step {}, {}", format_length(c.tokens), policy);
  m.parameters = {{"tokens", c.tokens},
                  {"policy", policy},
                  {"mlp_chunk", c.pass.mlp_chunk},
                  {"loss_chunk", c.pass.loss_chunk},
                  {"last_loss", loss},
                  {"set_up_seconds", set_up},
                  {"planned_bytes", plan.device_bytes()},
                  {"offloaded_bytes", plan.offloaded_bytes()},
                  {"memory", plan_json(plan)}};
  m.memory_table = plan.table();
  return m;
}

}  // namespace longgen::bench
