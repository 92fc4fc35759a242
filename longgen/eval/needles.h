// Pass key and needle-in-a-haystack: what a model finds in long prompts, by length and depth.
//
// A sample of length L is a prompt of at most L tokens less the tokens that are generated. Its
// needle stands `depth` of the way through the haystack. A needle is outside the sparse layers when
// no sparse layer, in any head, lets the query that predicts the first answer token see a block
// that holds a part of it: only the full layers' caches still have it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "longgen/eval/haystack.h"
#include "longgen/eval/needle_template.h"
#include "longgen/eval/tally.h"
#include "longgen/infer/engine.h"
#include "longgen/tokenizer/tokenizer.h"

namespace longgen::eval {

struct EvalCallbacks {
  // Tokens done of all (about), and what is being done: "passkey 4K".
  std::function<void(int64_t done, int64_t total, std::string_view what)> on_progress;
  // Polled between passes: true stops, and the report holds what was complete.
  std::function<bool()> cancelled;
};

struct NeedleTask {
  std::string name = "needle";  // in reports
  NeedleTemplate form;
  std::shared_ptr<const Haystack> haystack;
  std::vector<int64_t> lengths;
  int64_t samples = 100;  // a length
  // Depths are even over [0, 1], both ends included. samples are dealt to them in turn; 0: every
  // sample has its own.
  int64_t depths = 0;
  bool random_depths = false;  // uniform in [0, 1) instead
  uint64_t seed = 0;
  std::optional<bool> bos;  // BOS before the prompt; unset: as the tokenizer does it
  // The patterns that tell inside from outside; empty: the model's. An all-full model can so be
  // counted by the hybrid beside it.
  std::vector<AttentionPattern> patterns;

  // Throws UsageError naming the field.
  void validate() const;
};

struct NeedleSample {
  int64_t length = 0, index = 0;
  double depth = 0;
  std::string key;
  std::string prompt;                                           // empty in reports
  std::vector<int32_t> ids;                                     // of the prompt; empty in reports
  int64_t prompt_tokens = 0, needle_begin = 0, needle_end = 0;  // in tokens
  int64_t max_new_tokens = 0;
  bool outside = false;
  std::string output;
  double score = 0;
};

struct DepthScore {
  double depth = 0;
  Tally tally;
};

struct LengthScore {
  int64_t length = 0;
  Tally all, inside, outside;
  std::vector<DepthScore> depths;  // ascending; empty with random depths
  infer::EngineStats stats;        // summed over the length's samples; bytes: the most
};

struct NeedleReport {
  std::string task, form, haystack;
  std::vector<LengthScore> lengths;  // those with complete samples, in the task's order
  std::vector<NeedleSample> samples;
  bool complete = true;  // false: cancelled
};

// A prompt before it is fitted to a length in tokens.
struct NeedlePrompt {
  std::string text;
  size_t needle_begin = 0, needle_end = 0;  // bytes
};

// Puts the needle into `filler_bytes` of the haystack from `start`.
NeedlePrompt assemble(const NeedleTemplate& form, std::string_view key, const Haystack& haystack,
                      int64_t start, int64_t filler_bytes, double depth);

// Sample `index` of a length; depends on (task, tokenizer, length, index) alone. Throws UsageError
// when the length is too short for the question.
NeedleSample make_sample(const NeedleTask& task, const tokenizer::Tokenizer& tokenizer,
                         std::span<const AttentionPattern> patterns, int64_t length, int64_t index);

// Whether tokens [begin, end) are hidden from `query` in every sparse pattern; false when there is
// none.
bool outside_sparse_layers(std::span<const AttentionPattern> patterns, int64_t begin, int64_t end,
                           int64_t query);

// Prompt tokens a pass that keep a model of this size busy without taking much memory: 1K for large
// ones, up to 8K for tiny ones.
int64_t suggested_chunk(const model::ModelConfig& config);

// Greedy. The engine's max_tokens must reach the longest length.
NeedleReport run_needles(infer::Engine& engine, const tokenizer::Tokenizer& tokenizer,
                         const NeedleTask& task, const EvalCallbacks& callbacks = {});

}  // namespace longgen::eval
