// One model in training: optimizer steps over packed sequences, and evaluation. Files and policy
// (when to evaluate, when to save) are the run loop's.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "longgen/backend/backend.h"
#include "longgen/data/packer.h"
#include "longgen/model/decoder.h"
#include "longgen/train/optimizer.h"
#include "longgen/train/schedule.h"

namespace longgen::train {

struct TrainerOptions {
  int64_t length = 0;              // the longest sequence
  int64_t sequences_per_step = 1;  // accumulated into one update
  Schedule schedule;
  OptimizerOptions optimizer;
  model::TrainOptions pass;
};

struct StepRecord {
  int64_t step = 0;          // steps done before this one
  double loss = 0;           // sum over valid targets / their number, before the update
  double gradient_norm = 0;  // before clipping
  double lr = 0;
  int64_t tokens = 0, targets = 0;
  double flops = 0, dense_flops = 0;  // forward and backward, without recomputation
  double seconds = 0;
};

struct EvalRecord {
  struct Bucket {  // targets whose position in their document is in [begin, end)
    int64_t begin = 0, end = 0, targets = 0;
    double loss = 0;  // mean
  };
  double loss = 0;
  int64_t targets = 0;
  std::vector<Bucket> by_position;
};

class Trainer {
 public:
  // Everything is allocated here; `memory` may be a NoMemory to learn the size. What is offloaded
  // lies in `offload_memory` (null: in `memory`, too).
  Trainer(const model::ModelConfig& config, Backend& backend, DType activation,
          const TrainerOptions& options, MemoryResource& memory,
          MemoryResource* offload_memory = nullptr);

  Optimizer& optimizer() { return optimizer_; }
  const model::ModelConfig& config() const { return config_; }
  int64_t bytes() const;  // of `memory`
  // By purpose; their sum, without what is offloaded, is what `memory` gives.
  std::vector<model::MemoryItem> memory_items() const;

  // Asked before every sequence; when it says yes, the work is left with Interrupted.
  using Stop = std::function<bool()>;

  // One optimizer step on the next sequences at `position`, which moves on. Throws Error when loss
  // or gradient is not finite; neither weights nor position have changed then, nor when stopped.
  StepRecord step(int64_t step, data::Packer& packer, data::DataPosition& position,
                  const Stop& stop = {});

  // Mean loss of the first `max_tokens` rows of the packer's epoch 0 (at least one sequence).
  EvalRecord evaluate(data::Packer& packer, int64_t max_tokens, const Stop& stop = {});

 private:
  void check_finite(double loss, int64_t step) const;

  model::ModelConfig config_;
  TrainerOptions options_;
  Optimizer optimizer_;
  model::TrainingPass pass_;
  std::vector<data::Sequence> batch_;
};

}  // namespace longgen::train
