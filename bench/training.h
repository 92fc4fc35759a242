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
  bool bf16_state = false;     // weights and moments in bf16 without a master
  bool warm_up = true;         // a first step that does not count
  // Within so many bytes more is kept than `pass` says, so that less is computed again.
  int64_t memory = 0;
  uint64_t seed = 0;
};

// FLOPs are those of forward and backward; running layers again for recomputation adds none. Throws
// Error with the plan of the memory when there is not as much.
Measurement measure_train_step(const model::ModelConfig& config, const TrainCase& c,
                               Backend& backend, const Repeats& repeats);
}  // namespace longgen::bench
