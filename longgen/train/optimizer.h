// AdamW over all parameters of a model, with clipping by the global gradient norm. Either master
// weights and moments are kept in the accumulation dtype, and the weights that the model computes
// with are the rounded master (or the master itself where the dtypes agree); or there are bf16
// weights and bf16 moments alone, rounded stochastically (backend/stochastic_rounding.h), 6 bytes a
// parameter instead of 14. Gradients are kept in the accumulation dtype either way.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "longgen/backend/backend.h"
#include "longgen/model/decoder.h"
#include "longgen/model/weights.h"

namespace longgen::train {

struct OptimizerOptions {
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
  double weight_decay = 0;  // on parameters whose spec says decay
  double clip = 0;          // 0: none
  // Weights and moments in bf16 without a master. Needs bf16 activations.
  bool bf16_state = false;
  uint64_t seed = 0;  // of the rounding: with bf16_state
};

class Optimizer {
 public:
  // Everything is allocated here; `memory` may be a NoMemory to learn the size. Contents are zero.
  Optimizer(const model::ModelConfig& config, DType activation, Backend& backend,
            const OptimizerOptions& options, MemoryResource& memory);

  Backend& backend() const { return backend_; }
  const model::ParameterSet& weights() const { return weights_ ? *weights_ : master_; }
  // What updates go to; with bf16_state the weights themselves.
  const model::ParameterSet& master() const { return master_; }
  const model::ParameterSet& gradients() const { return gradients_; }
  const model::ParameterSet& first_moment() const { return first_moment_; }
  const model::ParameterSet& second_moment() const { return second_moment_; }
  int64_t bytes() const;
  std::vector<model::MemoryItem> memory_items() const;

  // Weights from the master: after it was loaded or initialised.
  void publish_master();
  void zero_gradients();
  // One update from the gradients. `update` is 1 for the first. Returns the gradient norm before
  // clipping. Throws Error naming a parameter whose gradient is not finite; nothing is changed
  // then.
  double step(double lr, int64_t update);

 private:
  double gradient_norm() const;
  void apply(size_t parameter, const AdamW& args);

  Backend& backend_;
  OptimizerOptions options_;
  model::ParameterSet master_, gradients_, first_moment_, second_moment_;
  std::unique_ptr<model::ParameterSet> weights_;  // null when the master serves
};

}  // namespace longgen::train
