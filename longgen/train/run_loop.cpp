#include "longgen/train/run_loop.h"

#include <nlohmann/json.hpp>

#include "longgen/base/interrupt.h"
#include "longgen/base/log.h"
#include "longgen/base/progress.h"
#include "longgen/base/system.h"
#include "longgen/base/units.h"
#include "longgen/train/metrics.h"

namespace longgen::train {
namespace {

using nlohmann::json;

json to_json(const StepRecord& r, const RunState& state) {
  return {{"kind", "train"},
          {"step", r.step},
          {"loss", r.loss},
          {"gradient_norm", r.gradient_norm},
          {"lr", r.lr},
          {"step_tokens", r.tokens},
          {"step_targets", r.targets},
          {"tokens", state.tokens},
          {"epoch", state.position.epoch},
          {"seconds", r.seconds},
          {"tokens_per_second", static_cast<double>(r.tokens) / r.seconds},
          {"flops_per_second", r.flops / r.seconds},
          {"dense_equivalent_flops_per_second", r.dense_flops / r.seconds},
          {"resident_bytes", resident_bytes()}};
}

json to_json(const EvalRecord& r, int64_t step) {
  json value = {{"kind", "eval"}, {"step", step}, {"loss", r.loss}, {"targets", r.targets}};
  for (const EvalRecord::Bucket& bucket : r.by_position) {
    value["by_position"].push_back({{"begin", bucket.begin},
                                    {"end", bucket.end},
                                    {"loss", bucket.loss},
                                    {"targets", bucket.targets}});
  }
  return value;
}

// One run from its (re)start to its end.
class RunLoop {
 public:
  RunLoop(Trainer& trainer, data::Packer& packer, data::Packer* held_out, RunState& state,
          const RunOptions& options)
      : trainer_(trainer),
        packer_(packer),
        held_out_(held_out),
        state_(state),
        options_(options),
        store_(options.output / "state", options.keep_checkpoints),
        metrics_(options.output / "metrics.jsonl", state.step),
        progress_("train", options.steps - state.step, "steps", options.quiet),
        first_step_(state.step),
        last_save_(monotonic_seconds()) {}

  bool run() {
    try {
      // A run that was stopped while it evaluated resumes here.
      if (evaluation_is_due() && !metrics_.resumed_behind_evaluation()) evaluate();
      while (state_.step < options_.steps) {
        train_one_step();
        if (evaluation_is_due()) evaluate();
        if (state_.step == options_.steps || save_is_due()) save();
      }
    } catch (const Interrupted&) {
      progress_.interrupt_line();
      if (state_.step > first_step_ && saved_step_ != state_.step) save();
      return false;
    }
    if (state_.step > first_step_) progress_.finish(note_);
    return true;
  }

 private:
  void train_one_step() {
    const StepRecord record =
        trainer_.step(state_.step, packer_, state_.position, options_.stop_requested);
    ++state_.step;
    state_.tokens += record.tokens;
    metrics_.write(to_json(record, state_));
    note_ = fmt::format("loss {:.4f}, {} tok/s, {}FLOP/s, {}", record.loss,
                        format_si(static_cast<double>(record.tokens) / record.seconds),
                        format_si(record.flops / record.seconds), format_bytes(resident_bytes()));
    progress_.update(state_.step - first_step_, note_);
    if (options_.after_step) options_.after_step(record);
  }

  void evaluate() {
    if (held_out_ == nullptr) return;
    const EvalRecord record =
        trainer_.evaluate(*held_out_, options_.eval_tokens, options_.stop_requested);
    metrics_.write(to_json(record, state_.step));
    progress_.interrupt_line();
    if (!options_.quiet) {
      info("step {}: held-out loss {:.4f} over {} targets", state_.step, record.loss,
           record.targets);
    }
  }

  bool evaluation_is_due() const {
    return state_.step == 0 || state_.step == options_.steps ||
           (options_.eval_every > 0 && state_.step % options_.eval_every == 0);
  }

  bool save_is_due() const {
    if (options_.checkpoint_every > 0 && state_.step % options_.checkpoint_every == 0) return true;
    return options_.checkpoint_minutes > 0 &&
           monotonic_seconds() - last_save_ > 60 * options_.checkpoint_minutes;
  }

  // Lines of metrics reach the disk before the checkpoint that counts on them.
  void save() {
    metrics_.sync();
    store_.save(state_, trainer_.optimizer());
    last_save_ = monotonic_seconds();
    saved_step_ = state_.step;
  }

  Trainer& trainer_;
  data::Packer& packer_;
  data::Packer* held_out_;
  RunState& state_;
  const RunOptions& options_;
  CheckpointStore store_;
  MetricsLog metrics_;
  Progress progress_;
  int64_t first_step_;
  int64_t saved_step_ = -1;
  double last_save_;
  std::string note_;
};

}  // namespace

bool run_training(Trainer& trainer, data::Packer& packer, data::Packer* held_out, RunState& state,
                  const RunOptions& options) {
  return RunLoop(trainer, packer, held_out, state, options).run();
}

}  // namespace longgen::train
