// How well a model predicts text, by position: does the context further back still help?
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "longgen/eval/needles.h"
#include "longgen/eval/tally.h"
#include "longgen/infer/engine.h"
#include "longgen/tokenizer/tokenizer.h"

namespace longgen::eval {

// Predicted positions [begin, end). The first bin ends at 256, every next one is as long as all
// before it; the last ends at `length`. Position 0 is predicted by nothing.
struct PositionBin {
  int64_t begin = 0, end = 0;
  Tally documents;  // each document's mean NLL (natural log) in the bin
};
std::vector<PositionBin> position_bins(int64_t length);

struct LongDocument {
  std::string name;
  std::vector<int32_t> ids;  // exactly the length asked for
};

// The first `length` tokens (BOS among them if `bos`) of the first `most` documents that have as
// many. Throws Error saying how long the longest was when there is none.
std::vector<LongDocument> long_documents(const std::vector<std::filesystem::path>& paths,
                                         const tokenizer::Tokenizer& tokenizer, int64_t length,
                                         int64_t most, bool bos);

struct PerplexityReport {
  int64_t length = 0;
  std::vector<PositionBin> bins;
  Tally all;  // each document's mean NLL
  std::vector<std::string> documents;
  infer::EngineStats stats;  // summed; bytes: the most
  bool complete = true;      // false: cancelled; unfinished documents are left out
};

// All documents have the same length.
PerplexityReport perplexity_by_position(infer::Engine& engine,
                                        std::span<const LongDocument> documents,
                                        const EvalCallbacks& callbacks = {});

struct ShortTextLoss {
  double nll = 0;  // mean over all predicted tokens, natural log
  int64_t tokens = 0, windows = 0;
};

struct ShortTextOptions {
  int64_t window = 512;     // tokens, BOS included
  int64_t max_windows = 0;  // spread evenly over the text; 0: all
  std::optional<bool> bos;  // before every window; unset: as the tokenizer does it
};

// Consecutive windows of the text, each on its own.
ShortTextLoss short_text_loss(infer::Engine& engine, const tokenizer::Tokenizer& tokenizer,
                              std::string_view text, const ShortTextOptions& options = {},
                              const EvalCallbacks& callbacks = {});

}  // namespace longgen::eval
