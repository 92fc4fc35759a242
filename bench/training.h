// Training steps: forward, backward and AdamW over one packed sequence of random ids.
#pragma once

#include <cstdint>

#include "bench/measurement.h"
#include "longgen/backend/backend.h"
#include "longgen/model/config.h"
#include "longgen/model/decoder.h"

namespace longgen::bench {

struct TrainCase {
  int64_t tokens = 2048;
  model::TrainOptions pass;
  DType dtype = DType::kBF16;  // of activations and of the weights that products read
  uint64_t seed = 0;
};

// FLOPs are those of forward and backward; running layers again for recomputation adds none.
Measurement measure_train_step(const model::ModelConfig& config, const TrainCase& c,
                               Backend& backend, const Repeats& repeats);
// Weights, gradients, moments and activations.
int64_t train_bytes(const model::ModelConfig& config, const TrainCase& c, Backend& backend);

}  // namespace longgen::bench
