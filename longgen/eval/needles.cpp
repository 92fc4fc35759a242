#include "longgen/eval/needles.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include "longgen/base/error.h"
#include "longgen/base/units.h"

namespace longgen::eval {
namespace {

void tally(LengthScore& score, const NeedleSample& sample, bool by_depth) {
  score.all.add(sample.score);
  (sample.outside ? score.outside : score.inside).add(sample.score);
  if (!by_depth) return;
  auto cell = std::find_if(score.depths.begin(), score.depths.end(),
                           [&](const DepthScore& d) { return d.depth >= sample.depth; });
  if (cell == score.depths.end() || cell->depth != sample.depth) {
    cell = score.depths.insert(cell, {sample.depth, {}});
  }
  cell->tally.add(sample.score);
}

// One length: makes its samples, runs them, and rates what is complete.
class LengthRun {
 public:
  LengthRun(infer::Engine& engine, const tokenizer::Tokenizer& tokenizer, const NeedleTask& task,
            const EvalCallbacks& callbacks)
      : engine_(engine),
        tokenizer_(tokenizer),
        task_(task),
        callbacks_(callbacks),
        total_(task.samples *
               std::accumulate(task.lengths.begin(), task.lengths.end(), int64_t{0})) {}

  // False when cancelled.
  bool run(int64_t length, NeedleReport& report) {
    const std::span<const AttentionPattern> patterns =
        task_.patterns.empty() ? engine_.config().patterns : task_.patterns;
    LengthScore score{.length = length};
    // A few batches at a time: the prompts of a long length need not all be in memory.
    const int64_t group = std::max<int64_t>(64, engine_.max_batch());
    bool going = true;
    for (int64_t begin = 0; begin < task_.samples && going; begin += group) {
      std::vector<NeedleSample> samples;
      for (int64_t i = begin; i < std::min(begin + group, task_.samples) && going; ++i) {
        samples.push_back(make_sample(task_, tokenizer_, patterns, length, i));
        going = !cancelled();
      }
      going = going && complete(samples, score, report);
      done_ += static_cast<int64_t>(samples.size()) * length;
    }
    if (score.all.count > 0) report.lengths.push_back(std::move(score));
    return going;
  }

 private:
  bool cancelled() const { return callbacks_.cancelled && callbacks_.cancelled(); }

  bool complete(std::vector<NeedleSample>& samples, LengthScore& score, NeedleReport& report) {
    std::vector<infer::Request> requests;
    for (NeedleSample& sample : samples) {
      infer::Request request{.max_new_tokens = sample.max_new_tokens};
      request.prompt = std::move(sample.ids);
      sample.ids.clear();
      sample.prompt.clear();
      requests.push_back(std::move(request));
    }
    const std::string what = task_.name + " " + format_length(score.length);
    infer::EngineCallbacks callbacks{.cancelled = callbacks_.cancelled};
    callbacks.on_prefill = [&](int64_t tokens, int64_t) {
      if (callbacks_.on_progress) callbacks_.on_progress(done_ + tokens, total_, what);
    };
    const auto completions = engine_.generate(requests, tokenizer_, callbacks);
    score.stats.add(engine_.stats());
    bool all = true;
    for (size_t i = 0; i < samples.size(); ++i) {
      if (completions[i].reason == infer::FinishReason::kCancelled) {
        all = false;
        continue;
      }
      samples[i].output = completions[i].text;
      samples[i].score = task_.form.rate(completions[i].text, samples[i].key);
      tally(score, samples[i], !task_.random_depths);
      report.samples.push_back(std::move(samples[i]));
    }
    return all;
  }

  infer::Engine& engine_;
  const tokenizer::Tokenizer& tokenizer_;
  const NeedleTask& task_;
  const EvalCallbacks& callbacks_;
  int64_t total_, done_ = 0;
};

}  // namespace

int64_t suggested_chunk(const model::ModelConfig& config) {
  constexpr uint64_t kElements = 1 << 20;  // of the residual stream
  const auto hidden = static_cast<uint64_t>(std::max<int64_t>(config.hidden_size, 1));
  return std::clamp<int64_t>(static_cast<int64_t>(std::bit_floor(kElements / hidden)), 1024, 8192);
}

NeedleReport run_needles(infer::Engine& engine, const tokenizer::Tokenizer& tokenizer,
                         const NeedleTask& task, const EvalCallbacks& callbacks) {
  task.validate();
  NeedleReport report{.task = task.name, .form = task.form.name, .haystack = task.haystack->name()};
  LengthRun run(engine, tokenizer, task, callbacks);
  for (const int64_t length : task.lengths) {
    report.complete = run.run(length, report);
    if (!report.complete) break;
  }
  return report;
}

}  // namespace longgen::eval
