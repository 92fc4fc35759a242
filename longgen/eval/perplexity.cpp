#include "longgen/eval/perplexity.h"

#include <algorithm>

#include "longgen/base/error.h"
#include "longgen/base/units.h"
#include "longgen/data/reader.h"

namespace longgen::eval {
namespace {

constexpr int64_t kFirstBin = 256;

// Adds one document's log-probabilities (entry t for position t + 1).
void add_document(PerplexityReport& report, std::span<const float> log_probabilities) {
  double all = 0;
  for (PositionBin& bin : report.bins) {
    double nll = 0;
    for (int64_t t = bin.begin; t < bin.end; ++t)
      nll -= log_probabilities[static_cast<size_t>(t - 1)];
    bin.documents.add(nll / static_cast<double>(bin.end - bin.begin));
    all += nll;
  }
  report.all.add(all / static_cast<double>(log_probabilities.size()));
}

}  // namespace

std::vector<PositionBin> position_bins(int64_t length) {
  std::vector<PositionBin> bins;
  for (int64_t begin = 1, end = kFirstBin; begin < length; begin = end, end *= 2) {
    bins.push_back({begin, std::min(end, length), {}});
  }
  return bins;
}

std::vector<LongDocument> long_documents(const std::vector<std::filesystem::path>& paths,
                                         const tokenizer::Tokenizer& tokenizer, int64_t length,
                                         int64_t most, bool bos) {
  std::vector<LongDocument> documents;
  int64_t longest = 0;
  for (const auto& path : paths) {
    for (const data::SourceFile& file : data::find_files(path)) {
      int64_t number = 0;
      data::read_documents(file, "text", [&](std::string_view text) {
        ++number;
        if (static_cast<int64_t>(documents.size()) >= most) return;
        auto ids = tokenizer.encode(text, {.add_bos = bos});
        longest = std::max(longest, static_cast<int64_t>(ids.size()));
        if (static_cast<int64_t>(ids.size()) < length) return;
        ids.resize(static_cast<size_t>(length));
        std::string name = file.path.string();
        if (file.jsonl) name += fmt::format(" document {}", number);
        documents.push_back({std::move(name), std::move(ids)});
      });
      if (static_cast<int64_t>(documents.size()) >= most) return documents;
    }
  }
  require(
      !documents.empty(),
      "no document of --text has {} tokens (the longest has {}); give longer documents or shorter "
      "--lengths",
      length, longest);
  return documents;
}

PerplexityReport perplexity_by_position(infer::Engine& engine,
                                        std::span<const LongDocument> documents,
                                        const EvalCallbacks& callbacks) {
  require(!documents.empty() && documents[0].ids.size() >= 2,
          "perplexity by position needs documents of at least 2 tokens");
  PerplexityReport report;
  report.length = static_cast<int64_t>(documents[0].ids.size());
  report.bins = position_bins(report.length);
  const int64_t total = report.length * static_cast<int64_t>(documents.size());
  int64_t done = 0;
  const std::string what = "perplexity " + format_length(report.length);
  for (const LongDocument& document : documents) {
    require(static_cast<int64_t>(document.ids.size()) == report.length,
            "perplexity by position: {} has {} tokens, others {}", document.name,
            document.ids.size(), report.length);
    infer::EngineCallbacks engine_callbacks{.cancelled = callbacks.cancelled};
    engine_callbacks.on_prefill = [&](int64_t tokens, int64_t) {
      if (callbacks.on_progress) callbacks.on_progress(done + tokens, total, what);
    };
    const std::vector<float> scores = engine.score(document.ids, engine_callbacks);
    report.stats.add(engine.stats());
    if (scores.size() + 1 < document.ids.size()) {
      report.complete = false;
      break;
    }
    add_document(report, scores);
    report.documents.push_back(document.name);
    done += report.length;
  }
  return report;
}

ShortTextLoss short_text_loss(infer::Engine& engine, const tokenizer::Tokenizer& tokenizer,
                              std::string_view text, const ShortTextOptions& options,
                              const EvalCallbacks& callbacks) {
  const bool bos = options.bos.value_or(tokenizer.adds_bos());
  require(options.window >= 2, "short-text loss: a window of {} tokens", options.window);
  const std::vector<int32_t> ids = tokenizer.encode(text);
  const int64_t body = options.window - (bos ? 1 : 0);  // tokens of text a window
  const int64_t available = (static_cast<int64_t>(ids.size()) + body - 1) / body;
  const int64_t count =
      options.max_windows > 0 ? std::min(options.max_windows, available) : available;
  ShortTextLoss loss;
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t begin = i * available / count * body;
    const int64_t size = std::min(body, static_cast<int64_t>(ids.size()) - begin);
    std::vector<int32_t> piece;
    if (bos) piece.push_back(tokenizer.bos_id());
    piece.insert(piece.end(), ids.begin() + begin, ids.begin() + begin + size);
    if (piece.size() < 2) continue;
    const std::vector<float> scores = engine.score(piece, {.cancelled = callbacks.cancelled});
    if (scores.size() + 1 < piece.size()) break;  // cancelled
    for (const float score : scores) sum -= score;
    loss.tokens += static_cast<int64_t>(scores.size());
    ++loss.windows;
    if (callbacks.on_progress) callbacks.on_progress((i + 1) * body, count * body, "short text");
  }
  require(loss.tokens > 0 || (callbacks.cancelled && callbacks.cancelled()),
          "short-text loss: the text has fewer than 2 tokens");
  loss.nll = loss.tokens > 0 ? sum / static_cast<double>(loss.tokens) : 0;
  return loss;
}

}  // namespace longgen::eval
