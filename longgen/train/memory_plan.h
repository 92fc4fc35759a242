// What memory a training step takes, known before any of it is taken: every allocation is an
// arena's or a parameter set's, and none happens inside a step.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "longgen/train/trainer.h"

namespace longgen::train {

struct MemoryPlan {
  std::vector<model::MemoryItem> items;

  int64_t device_bytes() const;     // without what is offloaded
  int64_t offloaded_bytes() const;  // in host memory, beside a device of its own
  // A line an item, then the sums, each ended by a newline.
  std::string table() const;
};

// Allocates nothing.
MemoryPlan plan_memory(const model::ModelConfig& config, Backend& backend, DType activation,
                       const TrainerOptions& options);

// Bytes within which keep_more() works where nobody names any: half of those available on a host, 0
// on a device.
int64_t default_memory(Backend& backend);

// `options` with a policy that keeps at least what they ask for, so that backward computes less
// again: the first that fits into `bytes` of what keeps everything; everything but the MLP's
// activations; all attention outputs; those of full layers. As asked where none does, or where
// something is offloaded, and for 0 bytes. Changes no bit of the result.
model::TrainOptions keep_more(const model::ModelConfig& config, Backend& backend, DType activation,
                              const TrainerOptions& options, int64_t bytes);

// Memory that may be used: of the backend, and of the host for what is offloaded.
struct AvailableMemory {
  int64_t device = 0, host = 0;
};
AvailableMemory available_memory(Backend& backend);

// The plan, if it fits. Else throws Error with the numbers, and which settings would fit.
MemoryPlan check_memory(const model::ModelConfig& config, Backend& backend, DType activation,
                        const TrainerOptions& options, const AvailableMemory& available);

}  // namespace longgen::train
