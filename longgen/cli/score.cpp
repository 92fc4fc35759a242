// longgen score: the log-probability of every token of a text, perplexity by position.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <span>

#include "longgen/base/error.h"
#include "longgen/base/progress.h"
#include "longgen/base/units.h"
#include "longgen/cli/command.h"
#include "longgen/cli/load_model.h"
#include "longgen/eval/perplexity.h"
#include "longgen/formats/json.h"

namespace longgen::cli {
namespace {

// Mean negative log-probability of the predicted positions [begin, end); position t's is entry
// t - 1.
double mean_nll(std::span<const float> log_probabilities, int64_t begin, int64_t end) {
  double nll = 0;
  for (int64_t t = begin; t < end; ++t) nll -= log_probabilities[static_cast<size_t>(t - 1)];
  return nll / static_cast<double>(end - begin);
}

class ScoreCommand : public Command {
 public:
  std::string name() const override { return "score"; }
  std::string description() const override {
    return "Log-probability of every token of a text, perplexity by position";
  }
  std::string example() const override {
    return "longgen score SmolLM2-135M-Instruct.Q4_1.gguf --text book.txt --max-tokens 8K";
  }

  void add_options(CLI::App& app, const CommonOptions& common) override {
    common_ = &common;
    app.add_option("model", model_, "Model folder or GGUF file")->required();
    app.add_option("--text", text_, "File to score; - reads stdin")->required();
    add_length_option(app, "--max-tokens", max_tokens_, "Score the first LENGTH tokens only");
    app.add_flag("--bos", bos_, "Put the BOS token first");
    app.add_flag("--per-token", per_token_, "Print every token's log-probability");
  }

  int run() override {
    ModelLoader loader(model_, *common_);
    std::vector<int32_t> ids = loader.tokenizer().encode(read_input(text_), {.add_bos = bos_});
    if (max_tokens_ > 0 && static_cast<int64_t>(ids.size()) > max_tokens_) {
      ids.resize(static_cast<size_t>(max_tokens_));
    }
    require(ids.size() >= 2, "{} holds {} tokens; at least 2 are needed", text_, ids.size());
    infer::EngineOptions options{.chunk = 1, .max_batch = 1};
    options.max_tokens = static_cast<int64_t>(ids.size());
    options.score_rows =
        std::min(default_score_rows(loader.backend(), loader.config()), options.max_tokens);
    loader.check_engine(options);
    const LoadedModel loaded = std::move(loader).load();
    infer::Engine engine(loaded.config, *loaded.weights, *loaded.backend, options);
    Progress progress("score", options.max_tokens, "tokens", common_->verbosity < 0);
    const std::vector<float> scores =
        engine.score(ids, {.on_prefill = [&](int64_t done, int64_t) { progress.update(done); }});
    progress.finish();
    print(loaded, ids, scores);
    return 0;
  }

 private:
  void print(const LoadedModel& loaded, const std::vector<int32_t>& ids,
             const std::vector<float>& scores) const {
    const auto length = static_cast<int64_t>(ids.size());
    const double nll = mean_nll(scores, 1, length);
    if (common_->json) {
      nlohmann::json bins = nlohmann::json::array();
      for (const eval::PositionBin& bin : eval::position_bins(length)) {
        bins.push_back({{"begin", bin.begin},
                        {"end", bin.end},
                        {"perplexity", std::exp(mean_nll(scores, bin.begin, bin.end))}});
      }
      fmt::print("{}\n", nlohmann::json{{"tokens", ids},
                                        {"logprobs", scores},
                                        {"perplexity", std::exp(nll)},
                                        {"by_position", bins}}
                             .dump());
      return;
    }
    if (per_token_) {
      for (size_t t = 1; t < ids.size(); ++t) {
        fmt::print("{:>8} {:>8} {:>10.5f}  {}\n", t, ids[t], scores[t - 1],
                   formats::dump_json(formats::Json(loaded.tokenizer->token_bytes(ids[t]))));
      }
    }
    fmt::print("{:>20} {:>10} {:>12}\n", "positions", "NLL", "perplexity");
    for (const eval::PositionBin& bin : eval::position_bins(length)) {
      const double mean = mean_nll(scores, bin.begin, bin.end);
      fmt::print("{:>20} {:>10.4f} {:>12.4f}\n", fmt::format("{} to {}", bin.begin, bin.end - 1),
                 mean, std::exp(mean));
    }
    fmt::print("{:>20} {:>10.4f} {:>12.4f}\n", fmt::format("all {}", scores.size()), nll,
               std::exp(nll));
  }

  const CommonOptions* common_ = nullptr;
  std::string model_, text_;
  int64_t max_tokens_ = 0;
  bool bos_ = false, per_token_ = false;
};

}  // namespace

std::unique_ptr<Command> make_score_command() { return std::make_unique<ScoreCommand>(); }

}  // namespace longgen::cli
