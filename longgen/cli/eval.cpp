// longgen eval: pass keys, needles in a haystack, perplexity by position.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "longgen/base/atomic_file.h"
#include "longgen/base/error.h"
#include "longgen/base/interrupt.h"
#include "longgen/base/progress.h"
#include "longgen/base/system.h"
#include "longgen/base/thread_pool.h"
#include "longgen/base/units.h"
#include "longgen/cli/command.h"
#include "longgen/cli/load_model.h"
#include "longgen/cli/version.h"
#include "longgen/eval/html_report.h"
#include "longgen/eval/needles.h"
#include "longgen/eval/perplexity.h"
#include "longgen/eval/report.h"
#include "longgen/formats/json.h"
#include "longgen/model/kv_size.h"
#include "longgen/pattern/hybrid_spec.h"

namespace longgen::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr int64_t kShortWindow = 512;  // tokens of a window of task short-text

const std::vector<std::string>& known_tasks() {
  static const std::vector<std::string> tasks = {"passkey", "needle", "perplexity", "short-text"};
  return tasks;
}

class EvalCommand : public Command {
 public:
  std::string name() const override { return "eval"; }
  std::string description() const override {
    return "Measure retrieval and perplexity over long contexts";
  }
  std::string example() const override {
    return "longgen eval MODEL --tasks passkey,needle,perplexity --lengths 1K,4K,16K \\\n"
           "      --samples 20 --haystack books/ --text books/ -o results/";
  }

  void add_options(CLI::App& app, const CommonOptions& common) override {
    common_ = &common;
    app.add_option("model", model_, "Model folder or GGUF file")->required();
    app.add_option("--tasks", tasks_,
                   "passkey, needle, perplexity, short-text: one or several, with commas")
        ->delimiter(',')
        ->required();
    app.add_option(
           "--lengths", length_texts_,
           "Prompt and answer together, in tokens (1K and doubled up to the model's length)")
        ->delimiter(',')
        ->type_name("LENGTH,...");
    app.add_option("--samples", samples_, "Samples a length; documents for perplexity")
        ->capture_default_str();
    app.add_option("--depths", depths_, "Depths, even over 0 to 100 %; 0: every sample its own")
        ->capture_default_str();
    app.add_flag("--random-depths", random_depths_, "Draw depths at random instead");
    app.add_option("--passkey-form", passkey_form_,
                   "landmark, or statement (in the haystack given)")
        ->capture_default_str();
    app.add_option("--needle-form", needle_form_, "number or sentence")->capture_default_str();
    app.add_option(
           "--haystack", haystacks_,
           "Text to hide needles in: files or folders of .txt, .md, .jsonl (built-in filler)")
        ->allow_extra_args(false);
    app.add_option("--outside", outside_,
                   "Tell needles inside from outside by this pattern, as --hybrid takes it (the "
                   "model's own)");
    app.add_option("--text", texts_, "Documents for perplexity and short-text: files or folders")
        ->allow_extra_args(false);
    app.add_flag("--bos,!--no-bos", bos_, "BOS before every text (as the tokenizer does it)");
    add_length_option(app, "--chunk", chunk_,
                      "Prompt tokens a pass (1K, up to 8K for tiny models and on a GPU)");
    app.add_option("--batch", batch_,
                   "Samples that run at once; 0: as many as hold 64K tokens, up to 8")
        ->capture_default_str();
    app.add_option("-o,--output", output_,
                   "Folder for report.html (tables and pictures), results.json and samples.jsonl");
  }

  int run() override {
    check_options();
    // Figures of a model should not move with the rounding of its activations, unless asked for.
    ModelLoader loader(model_, *common_, WeightForm::kDequantized);
    resolve_lengths(loader.config().max_position_embeddings);
    use_bos_ = bos_.value_or(loader.tokenizer().adds_bos());
    if (use_bos_ && loader.tokenizer().bos_id() < 0)
      fail_usage("--bos: the tokenizer has no BOS token");
    const infer::EngineOptions options = engine_options(loader.config(), loader.backend());
    loader.check_engine(options);
    prepare_tasks(loader.config(), loader.tokenizer());
    std::optional<DirectoryLock> lock;
    if (!output_.empty()) {
      create_folders(output_);
      lock.emplace(output_);
    }
    const LoadedModel loaded = std::move(loader).load();
    infer::Engine engine(loaded.config, *loaded.weights, *loaded.backend, options);
    const InterruptGuard interrupt;
    run_tasks(engine, *loaded.tokenizer, interrupt);
    finish(loaded, options, interrupt.requested());
    return interrupt.requested() ? kExitInterrupted : 0;
  }

 private:
  static bool has(const std::vector<std::string>& tasks, std::string_view task) {
    return std::find(tasks.begin(), tasks.end(), task) != tasks.end();
  }
  bool has_task(std::string_view task) const { return has(tasks_, task); }

  void check_options() const {
    for (size_t i = 0; i < tasks_.size(); ++i) {
      if (!has(known_tasks(), tasks_[i])) {
        fail_usage("unknown task \"{}\"; use one or several of: {}", tasks_[i],
                   fmt::join(known_tasks(), ", "));
      }
      if (std::find(tasks_.begin(), tasks_.begin() + static_cast<ptrdiff_t>(i), tasks_[i]) !=
          tasks_.begin() + static_cast<ptrdiff_t>(i)) {
        fail_usage("--tasks names {} twice", tasks_[i]);
      }
    }
    if (samples_ < 1) fail_usage("--samples {}: ask for at least one", samples_);
    if (depths_ < 0) fail_usage("--depths {}: use 0 or more", depths_);
    if (chunk_ < 0 || batch_ < 0) fail_usage("--chunk and --batch: use 0 (chosen) or more");
    const bool reads_text = has_task("perplexity") || has_task("short-text");
    if (reads_text && texts_.empty()) {
      fail_usage("tasks perplexity and short-text need documents: --text PATH");
    }
    if (!reads_text && !texts_.empty()) {
      fail_usage("--text is for tasks perplexity and short-text; needles take --haystack");
    }
  }

  void resolve_lengths(int64_t model_length) {
    for (const std::string& text : length_texts_) lengths_.push_back(parse_length(text));
    if (lengths_.empty()) {
      for (int64_t length = 1024; length < model_length; length *= 2) lengths_.push_back(length);
      lengths_.push_back(model_length);
    }
    std::sort(lengths_.begin(), lengths_.end());
    lengths_.erase(std::unique(lengths_.begin(), lengths_.end()), lengths_.end());
    if (lengths_[0] < 2) fail_usage("--lengths {}: use at least 2", lengths_[0]);
  }

  infer::EngineOptions engine_options(const model::ModelConfig& config, Backend& backend) const {
    constexpr int64_t kTokensAtOnce = 64 << 10, kMostAtOnce = 8;
    infer::EngineOptions options;
    options.max_tokens = lengths_.back();
    const int64_t suggested = std::max(eval::suggested_chunk(config), default_chunk(backend));
    options.chunk = std::min(chunk_ > 0 ? chunk_ : suggested, options.max_tokens);
    options.score_rows = std::min(default_score_rows(backend, config), options.chunk);
    options.max_batch =
        batch_ > 0 ? batch_
                   : std::clamp<int64_t>(kTokensAtOnce / options.max_tokens, 1, kMostAtOnce);
    options.max_batch = std::min(options.max_batch, samples_);
    return options;
  }

  // Reads all text, so that bad input ends the run before the weights are loaded.
  void prepare_tasks(const model::ModelConfig& config, const tokenizer::Tokenizer& tokenizer) {
    const auto filler = std::make_shared<const eval::Haystack>(eval::Haystack::filler());
    auto given = filler;
    if (!haystacks_.empty()) {
      given = std::make_shared<const eval::Haystack>(eval::Haystack::files(haystacks_));
    }
    const auto add = [&](const std::string& task, const eval::NeedleTemplate& form,
                         const auto& hay) {
      needle_tasks_.push_back({.name = task,
                               .form = form,
                               .haystack = hay,
                               .lengths = lengths_,
                               .samples = samples_,
                               .depths = depths_,
                               .random_depths = random_depths_,
                               .seed = common_->seed,
                               .bos = use_bos_,
                               .patterns = outside_patterns(config)});
      eval::make_sample(needle_tasks_.back(), tokenizer, {}, lengths_[0], 0);  // is it long enough?
    };
    for (const std::string& task : tasks_) {
      if (task == "passkey") {
        const auto& form = eval::find_template(eval::passkey_templates(), passkey_form_);
        add(task, form, form.restart_haystack ? filler : given);
      } else if (task == "needle") {
        add(task, eval::find_template(eval::needle_templates(), needle_form_), given);
      } else if (task == "perplexity") {
        documents_ = eval::long_documents(texts_, tokenizer, lengths_.back(), samples_, use_bos_);
      } else {
        const eval::Haystack all = eval::Haystack::files(texts_);
        short_text_ = all.piece(0, all.bytes());
      }
    }
  }

  // Empty: the model's own.
  std::vector<AttentionPattern> outside_patterns(const model::ModelConfig& config) const {
    if (outside_.empty()) return {};
    return HybridSpec::parse(outside_).resolve(config.num_layers, config.num_kv_heads);
  }

  void run_tasks(infer::Engine& engine, const tokenizer::Tokenizer& tokenizer,
                 const InterruptGuard& interrupt) {
    for (const eval::NeedleTask& task : needle_tasks_) {
      if (interrupt.requested()) return;
      with_progress(interrupt, [&](const eval::EvalCallbacks& callbacks) {
        needle_reports_.push_back(eval::run_needles(engine, tokenizer, task, callbacks));
        show(eval::to_table(needle_reports_.back()));
      });
    }
    if (!documents_.empty() && !interrupt.requested()) {
      with_progress(interrupt, [&](const eval::EvalCallbacks& callbacks) {
        perplexity_ = eval::perplexity_by_position(engine, documents_, callbacks);
        show(eval::to_table(*perplexity_));
      });
    }
    if (!short_text_.empty() && !interrupt.requested()) {
      with_progress(interrupt, [&](const eval::EvalCallbacks& callbacks) {
        const eval::ShortTextOptions options{.window = std::min(kShortWindow, lengths_.back()),
                                             .bos = use_bos_};
        short_loss_ = eval::short_text_loss(engine, tokenizer, short_text_, options, callbacks);
        show(fmt::format(
            "short text: NLL {:.4f}, perplexity {:.4f} over {} windows of up to {} tokens\n",
            short_loss_->nll, std::exp(short_loss_->nll), short_loss_->windows, options.window));
      });
    }
  }

  template <typename Body>
  void with_progress(const InterruptGuard& interrupt, const Body& body) {
    eval::EvalCallbacks callbacks{.cancelled = [&] { return interrupt.requested(); }};
    callbacks.on_progress = [&](int64_t done, int64_t total, std::string_view what) {
      if (!progress_) progress_.emplace("eval", total, "tokens", common_->verbosity < 0);
      progress_->update(done, what);
    };
    body(callbacks);
    progress_.reset();
  }

  void show(const std::string& table) {
    if (progress_) progress_->interrupt_line();
    if (!common_->json) fmt::print("{}\n", table);
    std::fflush(stdout);
  }

  std::vector<std::string> length_names() const {
    std::vector<std::string> names;
    names.reserve(lengths_.size());
    for (const int64_t length : lengths_) names.push_back(format_length(length));
    return names;
  }

  // What a reader of the figures asks; what is chosen for him included.
  Json settings(const LoadedModel& loaded, const infer::EngineOptions& options) const {
    std::vector<std::string> layers;
    const model::KvSize size =
        model::kv_size(loaded.config, lengths_.back(), loaded.weights->dtype());
    for (const model::KvLayerRange& range : size.ranges) {
      layers.push_back(fmt::format("{} {}", range.name(), range.pattern.to_string()));
    }
    const auto names = [](const std::vector<fs::path>& paths) {
      std::vector<std::string> out;
      out.reserve(paths.size());
      for (const fs::path& path : paths) out.push_back(path.string());
      return out;
    };
    Json json{{"model", model_},
              {"layers", layers},
              {"tasks", tasks_},
              {"lengths", length_names()},
              {"samples", samples_}};
    if (!needle_tasks_.empty()) {
      json["depths"] = random_depths_ ? "at random"
                       : depths_ == 0 ? "every sample its own"
                                      : fmt::format("{}, even", depths_);
      json["haystack"] = haystacks_.empty() ? Json("built-in filler") : Json(names(haystacks_));
      if (!outside_.empty()) json["outside of"] = outside_;
    }
    if (!texts_.empty()) json["text"] = names(texts_);
    json["bos"] = use_bos_;
    json["chunk"] = options.chunk;
    json["batch"] = options.max_batch;
    json["seed"] = common_->seed;
    return json;
  }

  // With everything that was chosen, so that another machine chooses nothing else.
  std::string command(DType dtype, const infer::EngineOptions& options) const {
    std::string out =
        fmt::format("longgen eval {} --tasks {} --lengths {} --samples {}", shell_word(model_),
                    fmt::join(tasks_, ","), fmt::join(length_names(), ","), samples_);
    const auto add = [&](std::string_view flag, const auto& value) {
      out += fmt::format(" {} {}", flag, shell_word(fmt::format("{}", value)));
    };
    if (!needle_tasks_.empty()) add("--depths", depths_);
    if (random_depths_) out += " --random-depths";
    if (has_task("passkey")) add("--passkey-form", passkey_form_);
    if (has_task("needle")) add("--needle-form", needle_form_);
    for (const fs::path& path : haystacks_) add("--haystack", path.string());
    if (!outside_.empty()) add("--outside", outside_);
    for (const fs::path& path : texts_) add("--text", path.string());
    out += use_bos_ ? " --bos" : " --no-bos";
    add("--chunk", options.chunk);
    add("--batch", options.max_batch);
    add("--dtype", common_->dtype.empty() ? dtype_name(dtype) : common_->dtype);
    add("--device", common_->device);
    add("--threads", common_->threads > 0 ? common_->threads : ThreadPool::hardware_threads());
    add("--seed", common_->seed);
    if (!output_.empty()) add("-o", output_);
    return out;
  }

  Json memory(const LoadedModel& loaded, const infer::EngineOptions& options) const {
    int64_t reserved = 0;
    for (const eval::NeedleReport& report : needle_reports_) {
      for (const eval::LengthScore& length : report.lengths) {
        reserved = std::max(reserved, length.stats.kv_bytes_reserved);
      }
    }
    if (perplexity_) reserved = std::max(reserved, perplexity_->stats.kv_bytes_reserved);
    const infer::EnginePlan plan =
        infer::Engine::plan(loaded.config, loaded.weights->dtype(), *loaded.backend, options);
    return {{"weights_bytes", loaded.weights->bytes()},
            {"kv_bytes_reserved", reserved},
            {"workspace_bytes", plan.workspace},
            {"peak_resident_bytes", peak_resident_bytes()}};
  }

  // report.html, results.json, samples.jsonl and --json.
  void finish(const LoadedModel& loaded, const infer::EngineOptions& options,
              bool interrupted) const {
    Json json{{"model", model_},
              {"longgen", version_line()},
              {"dtype", dtype_name(loaded.weights->dtype())},
              {"backend", loaded.backend->description()},
              {"seed", common_->seed},
              {"bos", use_bos_},
              {"complete", !interrupted},
              {"command", command(loaded.weights->dtype(), options)},
              {"settings", settings(loaded, options)},
              {"memory", memory(loaded, options)}};
    json["results"] = Json::object();
    std::string samples;
    for (const eval::NeedleReport& report : needle_reports_) {
      json["results"][report.task] = eval::to_json(report);
      for (const eval::NeedleSample& sample : report.samples) {
        samples += formats::dump_json(eval::to_json(report, sample)) + "\n";
      }
    }
    if (perplexity_) json["results"]["perplexity"] = eval::to_json(*perplexity_);
    if (short_loss_) {
      json["results"]["short-text"] = {{"nll", short_loss_->nll},
                                       {"perplexity", std::exp(short_loss_->nll)},
                                       {"tokens", short_loss_->tokens},
                                       {"windows", short_loss_->windows}};
    }
    if (common_->json) fmt::print("{}\n", formats::dump_json(json));
    if (output_.empty()) return;
    write_file_atomically(fs::path(output_) / "samples.jsonl", samples);
    write_file_atomically(fs::path(output_) / "results.json", formats::dump_json(json, 2) + "\n");
    write_file_atomically(fs::path(output_) / "report.html", eval::to_html(json));
  }

  const CommonOptions* common_ = nullptr;
  std::string model_, output_, outside_, passkey_form_ = "landmark", needle_form_ = "number";
  std::vector<std::string> tasks_, length_texts_;
  std::vector<fs::path> haystacks_, texts_;
  int64_t samples_ = 20, depths_ = 10, chunk_ = 0, batch_ = 0;
  bool random_depths_ = false, use_bos_ = false;
  std::optional<bool> bos_;

  std::vector<int64_t> lengths_;
  std::vector<eval::NeedleTask> needle_tasks_;
  std::vector<eval::LongDocument> documents_;
  std::vector<eval::NeedleReport> needle_reports_;
  std::optional<eval::PerplexityReport> perplexity_;
  std::string short_text_;
  std::optional<eval::ShortTextLoss> short_loss_;
  std::optional<Progress> progress_;
};

}  // namespace

std::unique_ptr<Command> make_eval_command() { return std::make_unique<EvalCommand>(); }

}  // namespace longgen::cli
