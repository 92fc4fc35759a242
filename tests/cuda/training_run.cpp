#include "tests/cuda/training_run.h"

#include <span>

#include "longgen/base/rng.h"

namespace longgen::testing {
namespace {

std::vector<int32_t> random_ids(int64_t count, int64_t vocabulary) {
  Rng rng(3, 0);
  std::vector<int32_t> ids(static_cast<size_t>(count));
  // Half of the ids follow from the one before, so that there is something to learn.
  for (size_t i = 0; i < ids.size(); ++i) {
    ids[i] = i % 2 == 1 ? (ids[i - 1] * 7 + 3) % static_cast<int32_t>(vocabulary)
                        : static_cast<int32_t>(rng.below(static_cast<uint64_t>(vocabulary)));
  }
  return ids;
}

}  // namespace

TrainingRun::TrainingRun(Backend& backend, const model::ModelConfig& config, int64_t tokens,
                         const model::TrainOptions& options, bool bf16_state)
    : optimizer(config, DType::kBF16, backend,
                {.weight_decay = 0.1, .clip = 1, .bf16_state = bf16_state, .seed = 9},
                backend.memory()),
      pass(config, optimizer.weights(), backend, tokens, options, backend.memory(),
           &backend.offload_memory()),
      ids(random_ids(tokens + 1, config.vocab_size)) {
  HostMemory host;
  const model::ParameterSet initial("initial weights", config, DType::kF32, host);
  model::initialize(config, 1, initial);
  model::copy_parameters(backend, optimizer.master(), initial);
  optimizer.publish_master();
}

double TrainingRun::step(int64_t update) {
  const auto n = ids.size() - 1;
  const std::span<const int32_t> all(ids);
  optimizer.zero_gradients();
  const double scale = 1 / static_cast<double>(n);
  const double loss = scale * pass.forward_backward({all.first(n), all.subspan(1, n), {}}, scale,
                                                    optimizer.gradients())
                                  .loss;
  optimizer.step(1e-3, update);
  return loss;
}

}  // namespace longgen::testing
