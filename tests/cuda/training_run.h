// A model in training without files: optimizer and pass.
#pragma once

#include <cstdint>
#include <vector>

#include "longgen/backend/backend.h"
#include "longgen/model/decoder.h"
#include "longgen/train/optimizer.h"

namespace longgen::testing {

// Starts from the same random weights every time, activations in bf16.
struct TrainingRun {
  TrainingRun(Backend& backend, const model::ModelConfig& config, int64_t tokens,
              const model::TrainOptions& options, bool bf16_state);

  // Over `ids`; gives the loss of a token.
  double step(int64_t update);

  train::Optimizer optimizer;
  model::TrainingPass pass;
  std::vector<int32_t> ids;  // tokens + 1, the same every time; others may be put in their place
};

}  // namespace longgen::testing
