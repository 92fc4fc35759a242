// Everything that a run needs to go on exactly where it was: OUTPUT/state/step-N, where N optimizer
// steps are done. Files: master, moment1, moment2 (the parameters in the order of
// model::param_specs, one after the other, raw), state.json, recipe.toml, and checksums (XXH3-128
// and size of each, and of its own lines). A checkpoint is written aside, synced and renamed, so
// that one that is there is whole; one that is not (a torn disk) is recognised by its checksums.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <string>

#include "longgen/data/packer.h"
#include "longgen/train/optimizer.h"

namespace longgen::train {

struct RunState {
  int64_t step = 0;             // optimizer steps done
  data::DataPosition position;  // the next sequence to read
  int64_t tokens = 0;           // rows trained on
  // Everything random is a function of the seed and these counters: the shuffle of an epoch is
  // stream `position.epoch` of the seed, and nothing else draws after the weights are initialised.
  uint64_t seed = 0;
  std::string data_hash;  // of all tokens of the run
  std::string recipe;     // TOML
  std::string backend;    // description: results repeat on the same one
};

class CheckpointStore {
 public:
  // `folder` is OUTPUT/state; created on the first save. Removes what an interrupted save left.
  // `keep` >= 1 checkpoints stay.
  CheckpointStore(std::filesystem::path folder, int64_t keep);

  // Throws Error (a full disk, say); earlier checkpoints are untouched then. Afterwards
  // removes those older than the last `keep`, and newer ones, from which the run went back.
  void save(const RunState& state, const Optimizer& optimizer) const;

  // The newest complete checkpoint, loaded into the optimizer's sets (publish_master() is called).
  // A damaged one is named in a warning and skipped. Throws Error when a complete one does not fit
  // the model.
  std::optional<RunState> load_newest(Optimizer& optimizer) const;

  // The same without tensors; complete means that checksums hold.
  std::optional<RunState> peek_newest() const;

  // Whether one of the two above skipped a damaged one.
  bool has_damaged() const { return !named_damaged_.empty(); }

  std::filesystem::path path(int64_t step) const;

 private:
  std::vector<int64_t> steps() const;  // newest first
  void prune(int64_t current) const;
  std::optional<int64_t> newest_complete() const;

  std::filesystem::path folder_;
  int64_t keep_;
  mutable std::set<int64_t> named_damaged_;  // warned about already
};

}  // namespace longgen::train
