// AdamW over all parameters of a model, with clipping by the global gradient norm. Master weights
// and moments are kept in the accumulation dtype; the weights that the model computes with are the
// rounded master (or the master itself where the dtypes agree).
#pragma once

#include <cstdint>
#include <memory>

#include "longgen/backend/backend.h"
#include "longgen/model/weights.h"

namespace longgen::train {

struct OptimizerOptions {
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
  double weight_decay = 0;  // on parameters whose spec says decay
  double clip = 0;          // 0: none
};

class Optimizer {
 public:
  // Everything is allocated here; `memory` may be a NoMemory to learn the size. Contents are zero.
  Optimizer(const model::ModelConfig& config, DType activation, Backend& backend,
            const OptimizerOptions& options, MemoryResource& memory);

  Backend& backend() const { return backend_; }
  const model::ParameterSet& weights() const { return weights_ ? *weights_ : master_; }
  const model::ParameterSet& master() const { return master_; }
  const model::ParameterSet& gradients() const { return gradients_; }
  const model::ParameterSet& first_moment() const { return first_moment_; }
  const model::ParameterSet& second_moment() const { return second_moment_; }
  int64_t bytes() const;

  // Weights from the master: after it was loaded or initialised.
  void publish_master();
  void zero_gradients();
  // One update from the gradients. `update` is 1 for the first. Returns the gradient norm before
  // clipping. Throws Error naming a parameter whose gradient is not finite; nothing is changed
  // then.
  double step(double lr, int64_t update);

 private:
  double gradient_norm() const;

  Backend& backend_;
  OptimizerOptions options_;
  model::ParameterSet master_, gradients_, first_moment_, second_moment_;
  std::unique_ptr<model::ParameterSet> weights_;  // null when the master serves
};

}  // namespace longgen::train
