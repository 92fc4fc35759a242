// longgen generate: completes prompts; text streams as it comes.
#include <cstdio>
#include <nlohmann/json.hpp>

#include "longgen/base/error.h"
#include "longgen/base/interrupt.h"
#include "longgen/base/log.h"
#include "longgen/base/progress.h"
#include "longgen/base/system.h"
#include "longgen/base/units.h"
#include "longgen/cli/command.h"
#include "longgen/cli/load_model.h"
#include "longgen/formats/json.h"

namespace longgen::cli {
namespace {

class GenerateCommand : public Command {
 public:
  std::string name() const override { return "generate"; }
  std::string description() const override { return "Complete prompts"; }
  std::string example() const override {
    return "longgen generate SmolLM2-135M-Instruct.Q4_1.gguf \\\n"
           "      -p \"The capital of France is\" -n 32";
  }

  void add_options(CLI::App& app, const CommonOptions& common) override {
    common_ = &common;
    app.add_option("model", model_, "Model folder or GGUF file")->required();
    app.add_option("-p,--prompt", prompts_, "Prompt; repeat it for several")
        ->allow_extra_args(false);
    app.add_option("-f,--file", files_, "File that holds a prompt; - reads stdin")
        ->allow_extra_args(false);
    add_length_option(app, "-n,--max-new-tokens", max_new_tokens_, "Tokens to generate (128)");
    add_sampling_options(app, sampling_);
    app.add_option("--stop", stops_, "Stop string; repeat it for several")->allow_extra_args(false);
    app.add_flag("--special", special_, "Special tokens written in the prompt are meant as such");
    app.add_flag("--ignore-eos", ignore_eos_, "Go on after the end-of-text token");
    add_length_option(app, "--chunk", chunk_, "Prompt tokens a pass (4K; on a GPU 8K)");
    app.add_option("--batch", batch_, "Prompts that run at once")->capture_default_str();
  }

  int run() override {
    if (prompts_.empty() && files_.empty()) fail_usage("give a prompt: -p TEXT or -f FILE");
    for (const std::string& file : files_) prompts_.push_back(read_input(file));
    if (max_new_tokens_ < 1) fail_usage("-n {}: ask for at least one token", max_new_tokens_);
    if (chunk_.value_or(1) < 1 || batch_ < 1) fail_usage("--chunk and --batch must be at least 1");
    sampling_.seed = common_->seed;
    sampling_.validate();

    ModelLoader loader(model_, *common_);
    if (!chunk_) chunk_ = default_chunk(loader.backend());
    std::vector<infer::Request> requests;
    int64_t longest = 0;
    for (size_t i = 0; i < prompts_.size(); ++i) {
      infer::Request request{.max_new_tokens = max_new_tokens_,
                             .sampling = sampling_,
                             .stop = stops_,
                             .ignore_end_of_text = ignore_eos_};
      request.prompt = loader.tokenizer().encode(
          prompts_[i], {.add_bos = loader.tokenizer().adds_bos(), .parse_special = special_});
      require(!request.prompt.empty(), "prompt {} is empty", i + 1);
      longest = std::max(longest, static_cast<int64_t>(request.prompt.size()));
      requests.push_back(std::move(request));
    }
    infer::EngineOptions options{.chunk = std::min(*chunk_, longest), .score_rows = 1};
    options.max_batch = std::min<int64_t>(batch_, static_cast<int64_t>(requests.size()));
    options.max_tokens = longest + max_new_tokens_;
    loader.check_engine(options);
    const LoadedModel loaded = std::move(loader).load();
    infer::Engine engine(loaded.config, *loaded.weights, *loaded.backend, options);
    // Ctrl-C ends generation; what there is and the figures are still printed.
    const InterruptGuard interrupt;
    const auto completions = generate(engine, requests, *loaded.tokenizer, interrupt);
    print_completions(completions);
    std::fflush(stdout);  // before the figures, also where both go to one file
    if (interrupt.requested() && engine.stats().prefill_tokens == 0) {
      warn("interrupted before the prompt was read");
      return kExitInterrupted;
    }
    print_stats(engine.stats(), loaded);
    return interrupt.requested() ? kExitInterrupted : 0;
  }

 private:
  bool streams() const { return prompts_.size() == 1 && !common_->json; }

  std::vector<infer::Completion> generate(infer::Engine& engine,
                                          const std::vector<infer::Request>& requests,
                                          const tokenizer::Tokenizer& tokenizer,
                                          const InterruptGuard& interrupt) const {
    int64_t total = 0;
    for (const auto& request : requests) total += static_cast<int64_t>(request.prompt.size());
    // A short prompt is done before a bar could be read.
    Progress progress("prefill", total, "tokens", common_->verbosity < 0 || total <= *chunk_);
    infer::EngineCallbacks callbacks;
    callbacks.on_prefill = [&](int64_t done, int64_t all) {
      if (done == all) {
        progress.finish();
      } else {
        progress.update(done);
      }
    };
    callbacks.cancelled = [&] { return interrupt.requested(); };
    if (streams()) {
      callbacks.on_text = [](size_t, std::string_view text) {
        std::fwrite(text.data(), 1, text.size(), stdout);
        require(std::fflush(stdout) == 0, "cannot write to standard output (is the disk full?)");
      };
    }
    return engine.generate(requests, tokenizer, callbacks);
  }

  void print_completions(const std::vector<infer::Completion>& completions) const {
    if (streams()) {
      fmt::print("\n");
      return;
    }
    for (size_t i = 0; i < completions.size(); ++i) {
      const infer::Completion& completion = completions[i];
      if (common_->json) {
        fmt::print("{}\n", formats::dump_json(formats::Json{
                               {"prompt", prompts_[i]},
                               {"text", completion.text},
                               {"tokens", completion.ids},
                               {"finish_reason", infer::finish_reason_name(completion.reason)}}));
      } else {
        fmt::print("--- prompt {} of {}\n{}\n", i + 1, completions.size(), completion.text);
      }
    }
  }

  void print_stats(const infer::EngineStats& stats, const LoadedModel& loaded) const {
    if (common_->verbosity < 0) return;
    const auto rate = [](int64_t tokens, double seconds) {
      return seconds > 0 ? static_cast<double>(tokens) / seconds : 0;
    };
    fmt::print(stderr, "prefill {} tokens, {:.1f} tokens/s; decode {} tokens, {:.1f} tokens/s\n",
               stats.prefill_tokens, rate(stats.prefill_tokens, stats.prefill_seconds),
               stats.decode_tokens, rate(stats.decode_tokens, stats.decode_seconds));
    const bool on_host = loaded.backend->memory().device() == Device::kHost;
    fmt::print(stderr, "KV cache {} in use (peak {}{}); all layers full {}\n",
               format_bytes(stats.kv_bytes_in_use), format_bytes(stats.kv_bytes_peak),
               on_host ? "" : ", allocated " + format_bytes(stats.kv_bytes_allocated),
               format_bytes(stats.kv_bytes_all_full));
    fmt::print(stderr, "peak resident memory {} ({} weights{}, {})\n",
               format_bytes(peak_resident_bytes()), format_bytes(loaded.weights->bytes()),
               on_host ? "" : " on the GPU", loaded.backend->description());
  }

  const CommonOptions* common_ = nullptr;
  std::string model_;
  std::vector<std::string> prompts_, files_, stops_;
  infer::SamplingParams sampling_;
  int64_t max_new_tokens_ = 128, batch_ = 8;
  std::optional<int64_t> chunk_;
  bool special_ = false, ignore_eos_ = false;
};

}  // namespace

std::unique_ptr<Command> make_generate_command() { return std::make_unique<GenerateCommand>(); }

}  // namespace longgen::cli
