// The loop around a Trainer: evaluation, metrics, checkpoints, progress, and a clean stop.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "longgen/train/run_state.h"
#include "longgen/train/trainer.h"

namespace longgen::train {

struct RunOptions {
  std::filesystem::path output;  // metrics.jsonl and state/ go here
  int64_t steps = 0;             // in all, those before a resume included
  int64_t eval_every = 0;        // 0: before the first step and after the last
  int64_t eval_tokens = 0;
  int64_t checkpoint_every = 0;   // steps; 0: by time only
  double checkpoint_minutes = 0;  // 0: by steps only
  int64_t keep_checkpoints = 1;
  bool quiet = false;
  std::function<bool()> stop_requested;               // may be empty; asked before every sequence
  std::function<void(const StepRecord&)> after_step;  // may be empty
};

// Goes on from `state` (which is fresh, or was loaded into the trainer) to the last step and saves
// a checkpoint there. Returns false when it was stopped before: a checkpoint holds what was done
// until then, if anything.
// `state` is updated. `held_out` may be null: no evaluation.
bool run_training(Trainer& trainer, data::Packer& packer, data::Packer* held_out, RunState& state,
                  const RunOptions& options);

}  // namespace longgen::train
