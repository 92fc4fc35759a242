#include <algorithm>
#include <cmath>

#include "longgen/base/error.h"
#include "longgen/base/units.h"
#include "longgen/eval/needles.h"

namespace longgen::eval {
namespace {

// Where the needle goes in `filler`, near `at`.
size_t place(NeedlePlace rule, std::string_view filler, size_t at) {
  if (rule == NeedlePlace::kExact || at >= filler.size()) return at;
  if (rule == NeedlePlace::kSentenceEnd) {
    if (at == 0) return 0;
    const size_t stop = filler.rfind('.', at - 1);
    return stop == std::string_view::npos ? 0 : stop + 1;
  }
  constexpr size_t kStopWithin = 200, kSpaceWithin = 40;
  const size_t stop = filler.substr(0, std::min(filler.size(), at + kStopWithin)).find(". ", at);
  if (stop != std::string_view::npos) return stop + 1;
  const size_t space = filler.substr(0, std::min(filler.size(), at + kSpaceWithin)).find(' ', at);
  return space != std::string_view::npos ? space : at;
}

double depth_of(const NeedleTask& task, int64_t index, Rng& rng) {
  const double drawn = rng.uniform();
  if (task.random_depths) return drawn;
  const int64_t cells = task.depths > 0 ? std::min(task.depths, task.samples) : task.samples;
  if (cells < 2) return 0.5;
  return static_cast<double>(index % cells) / static_cast<double>(cells - 1);
}

// The token of `ids` that holds byte `at` of the text they encode.
int64_t token_at(const tokenizer::Tokenizer& tokenizer, std::span<const int32_t> ids, size_t at,
                 size_t text_bytes) {
  size_t total = 0;
  for (const int32_t id : ids) {
    if (!tokenizer.is_special(id)) total += tokenizer.token_bytes(id).size();
  }
  // SentencePiece puts a space before the text.
  const size_t lead = total > text_bytes ? total - text_bytes : 0;
  size_t end = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (!tokenizer.is_special(ids[i])) end += tokenizer.token_bytes(ids[i]).size();
    if (end > at + lead) return static_cast<int64_t>(i);
  }
  return static_cast<int64_t>(ids.size());
}

// Finds the piece of haystack that fills a number of tokens.
class Fitter {
 public:
  Fitter(const NeedleTask& task, const tokenizer::Tokenizer& tokenizer, NeedleSample& sample)
      : task_(task), tokenizer_(tokenizer), sample_(sample) {}

  void fit(int64_t budget, Rng& rng) {
    const int64_t bare = measure(0);
    if (bare > budget) {
      fail_usage(
          "--lengths: {} tokens are too few for task {}: its question and answer alone take {}",
          format_length(sample_.length), task_.name, bare + sample_.max_new_tokens);
    }
    bytes_per_token_ = estimate_bytes_per_token();
    int64_t bytes = to_bytes(budget - bare);
    start_ = task_.haystack->random_start(rng, bytes + bytes / 4);
    // The count is almost linear in the bytes: a step or two suffice. A few tokens may stay unused.
    const int64_t tolerance = budget / 1024;
    constexpr int kSteps = 12;
    for (int step = 0; step < kSteps; ++step) {
      const int64_t slack = budget - measure(bytes);
      if (slack >= 0 && slack <= tolerance) break;
      const int64_t next = bytes + to_bytes(slack) - (slack < 0 ? step : 0);
      if (next == bytes || next < 0) break;
      bytes = next;
    }
    keep_best(budget, bare);
  }

 private:
  struct Trial {
    int64_t bytes = 0, tokens = 0;
  };

  NeedlePrompt prompt(int64_t bytes) const {
    return assemble(task_.form, sample_.key, *task_.haystack, start_, bytes, sample_.depth);
  }

  std::vector<int32_t> encode(const std::string& text) const {
    return tokenizer_.encode(text, {.add_bos = task_.bos.value_or(tokenizer_.adds_bos())});
  }

  int64_t measure(int64_t bytes) {
    trials_.push_back({bytes, static_cast<int64_t>(encode(prompt(bytes).text).size())});
    return trials_.back().tokens;
  }

  double estimate_bytes_per_token() const {
    constexpr int64_t kSample = 1 << 14;
    const std::string text = task_.haystack->piece(0, kSample);
    const size_t tokens = tokenizer_.encode(text).size();
    return static_cast<double>(text.size()) / static_cast<double>(std::max<size_t>(tokens, 1));
  }

  // Rounded down, so that a cut never falls short.
  int64_t to_bytes(int64_t tokens) const {
    return static_cast<int64_t>(std::floor(static_cast<double>(tokens) * bytes_per_token_));
  }

  void keep_best(int64_t budget, int64_t bare) {
    Trial best{0, bare};
    for (const Trial& trial : trials_) {
      if (trial.tokens <= budget && trial.tokens > best.tokens) best = trial;
    }
    const NeedlePrompt p = prompt(best.bytes);
    sample_.ids = encode(p.text);
    sample_.prompt_tokens = static_cast<int64_t>(sample_.ids.size());
    sample_.needle_begin = token_at(tokenizer_, sample_.ids, p.needle_begin, p.text.size());
    sample_.needle_end = token_at(tokenizer_, sample_.ids, p.needle_end - 1, p.text.size()) + 1;
    sample_.prompt = p.text;
  }

  const NeedleTask& task_;
  const tokenizer::Tokenizer& tokenizer_;
  NeedleSample& sample_;
  int64_t start_ = 0;
  double bytes_per_token_ = 1;
  std::vector<Trial> trials_;
};

}  // namespace

void NeedleTask::validate() const {
  if (haystack == nullptr) fail_usage("task {}: there is no haystack", name);
  if (lengths.empty()) fail_usage("task {}: give at least one length", name);
  for (const int64_t length : lengths) {
    if (length < 1 || length > INT32_MAX) fail_usage("--lengths: {} is no length", length);
  }
  if (samples < 1) fail_usage("--samples {}: ask for at least one", samples);
  if (depths < 0) fail_usage("--depths {}: ask for at least one", depths);
}

NeedlePrompt assemble(const NeedleTemplate& form, std::string_view key, const Haystack& haystack,
                      int64_t start, int64_t filler_bytes, double depth) {
  const std::string filler = haystack.piece(start, filler_bytes);
  const auto at =
      static_cast<size_t>(std::clamp(depth, 0.0, 1.0) * static_cast<double>(filler.size()));
  const size_t cut = place(form.place, filler, character_start(filler, at));
  NeedlePrompt prompt;
  prompt.text = form.prefix + filler.substr(0, cut);
  prompt.needle_begin = prompt.text.size();
  prompt.text += fill_in(form.needle, key);
  prompt.needle_end = prompt.text.size();
  prompt.text += form.restart_haystack
                     ? haystack.piece(start, static_cast<int64_t>(filler.size() - cut))
                     : filler.substr(cut);
  prompt.text += fill_in(form.question, key);
  return prompt;
}

NeedleSample make_sample(const NeedleTask& task, const tokenizer::Tokenizer& tokenizer,
                         std::span<const AttentionPattern> patterns, int64_t length,
                         int64_t index) {
  NeedleSample sample{.length = length, .index = index};
  // Lengths stay below 2^31, so streams of different samples differ.
  Rng rng(task.seed, static_cast<uint64_t>(length) << 32 | static_cast<uint64_t>(index));
  sample.key = task.form.make_key(rng);
  sample.depth = depth_of(task, index, rng);
  sample.max_new_tokens = task.form.max_new_tokens;
  if (sample.max_new_tokens == 0) {
    const auto answer = tokenizer.encode(fill_in(task.form.answer, sample.key));
    sample.max_new_tokens = std::max<int64_t>(static_cast<int64_t>(answer.size()), 1);
  }
  Fitter(task, tokenizer, sample).fit(length - sample.max_new_tokens, rng);
  sample.outside = outside_sparse_layers(patterns, sample.needle_begin, sample.needle_end,
                                         sample.prompt_tokens - 1);
  return sample;
}

bool outside_sparse_layers(std::span<const AttentionPattern> patterns, int64_t begin, int64_t end,
                           int64_t query) {
  bool any = false;
  for (const AttentionPattern& pattern : patterns) {
    if (pattern.is_full()) continue;
    any = true;
    const int64_t size = pattern.block_size;
    for (int64_t head = 0; head < static_cast<int64_t>(pattern.offsets.size()); ++head) {
      for (int64_t block = begin / size; block * size < end; ++block) {
        if (pattern.sees_block(query / size, block, head)) return false;
      }
    }
  }
  return any;
}

}  // namespace longgen::eval
