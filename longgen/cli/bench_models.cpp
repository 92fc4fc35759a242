// longgen bench prefill, decode, train: whole models, from a file or of a known shape with random
// weights.
#include <algorithm>
#include <optional>

#include "bench/inference.h"
#include "bench/shapes.h"
#include "bench/training.h"
#include "longgen/base/error.h"
#include "longgen/base/system.h"
#include "longgen/base/units.h"
#include "longgen/cli/bench_common.h"
#include "longgen/cli/load_model.h"
#include "longgen/pattern/hybrid_spec.h"
#include "longgen/train/memory_plan.h"
#include "longgen/train/recipe.h"

namespace longgen::cli {
namespace {

void refuse_unless_it_fits(int64_t weights, int64_t other, const char* what, Backend& backend) {
  const int64_t available = backend.memory().available_bytes();
  require(weights + other <= available,
          "this needs {} of weights and {} of {}, together {}, but only {} of {} are free; use a "
          "smaller shape or shorter lengths",
          format_bytes(weights), format_bytes(other), what, format_bytes(weights + other),
          format_bytes(available), memory_name(backend));
}

// MODEL or --shape, and --hybrid.
class ModelChoice {
 public:
  void add_to(CLI::App& app) {
    CLI::Option* model =
        app.add_option("model", path_, "Model folder or GGUF file (else random weights)");
    app.add_option("--shape", shape_, "Shape of a model with random weights")
        ->capture_default_str()
        ->check(CLI::IsMember(bench::shape_names()))
        ->excludes(model);
    app.add_option("--layers", layers_, "So many layers of the shape instead of all")
        ->check(CLI::Range(1, 4096))
        ->excludes(model);
    app.add_option("--hybrid", hybrid_,
                   "Patterns: full=middle:K|top:K|bottom:K|interleaved:K|LIST "
                   "sparse=sink-window|strided|local:N,sink:N,stride:N,block:N");
  }

  bool from_file() const { return !path_.empty(); }
  const std::string& path() const { return path_; }
  std::string name() const { return from_file() ? path_ : shape_; }
  const std::string& hybrid() const { return hybrid_; }

  model::ModelConfig config() const {
    if (from_file()) return hybridised(formats::ModelFile::open(path_).config());
    model::ModelConfig config = bench::shape_config(shape_);
    if (layers_ > 0) {
      config.num_layers = layers_;
      model::set_full_attention(config);
    }
    return hybridised(config);
  }
  model::ModelConfig hybridised(model::ModelConfig config) const {
    if (!hybrid_.empty()) {
      config.patterns = HybridSpec::parse(hybrid_).resolve(config.num_layers, config.num_kv_heads);
    }
    return config;
  }

  // Adds what was run to a row. `weights`: how they are kept.
  bench::Measurement described(bench::Measurement m, const std::string& weights = "") const {
    m.parameters["model"] = name();
    if (!weights.empty()) m.parameters["weights"] = weights;
    m.parameters["hybrid"] = hybrid_;
    if (layers_ > 0) m.parameters["layers"] = layers_;
    if (!hybrid_.empty()) m.name += ", hybrid";
    return m;
  }

 private:
  std::string path_, shape_ = "smollm2-135m", hybrid_;
  int64_t layers_ = 0;
};

// A model with weights in memory: in that of `owner` where it is set, which must outlive them.
struct Loaded {
  model::ModelConfig config;
  std::unique_ptr<Backend> owner;
  std::unique_ptr<model::ParameterSet> weights;
};

// What prefill and decode share.
class BenchServingCommand : public Command {
 public:
  void add_options(CLI::App& app, const CommonOptions& common) override {
    common_ = &common;
    model_.add_to(app);
    add_own_options(app);
    options_.add_to(app);
  }

  int run() override {
    check();
    BenchReport report(*common_, options_);
    Backend& backend = report.backend();
    const Loaded loaded = load(backend);
    measure({loaded.config, *loaded.weights, report.backend(), common_->seed}, report);
    report.finish();
    return 0;
  }

 protected:
  virtual void add_own_options(CLI::App& app) = 0;
  // Throws UsageError.
  virtual void check() = 0;
  virtual int64_t other_bytes(const model::ModelConfig& config, DType dtype,
                              Backend& backend) const = 0;
  virtual void measure(const bench::ServedModel& model, BenchReport& report) const = 0;

  BenchOptions options_;
  ModelChoice model_;

 private:
  Loaded load(Backend& backend) const {
    if (model_.from_file()) {
      ModelLoader loader(model_.path(), *common_);
      const auto config = model_.hybridised(loader.config());
      loader.check_memory(other_bytes(config, loader.dtype(), backend), "cache and activations");
      LoadedModel loaded = std::move(loader).load();
      return {config, std::move(loaded.backend), std::move(loaded.weights)};
    }
    const model::ModelConfig config = model_.config();
    const DType dtype = bench_dtype(*common_, backend);
    refuse_unless_it_fits(model::parameter_count(config) * dtype_size(dtype),
                          other_bytes(config, dtype, backend), "cache and activations", backend);
    auto weights =
        std::make_unique<model::ParameterSet>("weights", config, dtype, backend.memory());
    bench::fill_random(*weights, common_->seed, &backend);
    return {config, nullptr, std::move(weights)};
  }

  const CommonOptions* common_ = nullptr;
};

class BenchPrefillCommand : public BenchServingCommand {
 public:
  std::string name() const override { return "prefill"; }
  std::string description() const override { return "Read prompts of given lengths"; }
  std::string example() const override {
    return "longgen bench prefill --shape smollm2-135m --lengths 2K,8K \\\n"
           "      --hybrid \"full=middle:10 sparse=sink-window\"";
  }

 protected:
  void add_own_options(CLI::App& app) override {
    add_lengths_option(app, "--lengths", lengths_, "Tokens of the prompt (2K)");
    add_length_option(app, "--chunk", chunk_, "Prompt tokens a pass (4K; on a GPU 8K)");
    options_.repeats = {.least = 1, .most = 7, .seconds = 5};
  }
  void check() override {
    if (chunk_.value_or(1) < 1 || *std::min_element(lengths_.begin(), lengths_.end()) < 1) {
      fail_usage("prefill of {} tokens in chunks of {}", lengths_.front(), chunk_.value_or(1));
    }
  }
  int64_t other_bytes(const model::ModelConfig& config, DType dtype,
                      Backend& backend) const override {
    const int64_t longest = *std::max_element(lengths_.begin(), lengths_.end());
    return bench::prefill_bytes(config, dtype, backend, {longest, chunk(backend)});
  }
  void measure(const bench::ServedModel& model, BenchReport& report) const override {
    for (const int64_t length : lengths_) {
      const bench::PrefillCase c{length, chunk(model.backend)};
      report.row(model_.described(bench::measure_prefill(model, c, options_.repeats),
                                  model.weights.description()));
    }
  }

 private:
  int64_t chunk(Backend& backend) const { return chunk_.value_or(default_chunk(backend)); }

  std::vector<int64_t> lengths_ = {2048};
  std::optional<int64_t> chunk_;
};

class BenchDecodeCommand : public BenchServingCommand {
 public:
  std::string name() const override { return "decode"; }
  std::string description() const override {
    return "Steps of one token behind caches of given depths";
  }
  std::string example() const override {
    return "longgen bench decode --shape smollm2-135m --depths 0,8K,32K";
  }

 protected:
  void add_own_options(CLI::App& app) override {
    add_lengths_option(app, "--depths", case_.depths, "Tokens in the cache, random values (0,8K)");
    app.add_option("--steps", case_.steps, "Steps at each depth")
        ->capture_default_str()
        ->check(CLI::Range(1, 100000));
    app.add_option("--batch", case_.batch, "Sequences side by side")
        ->capture_default_str()
        ->check(CLI::Range(1, 4096));
  }
  void check() override { std::sort(case_.depths.begin(), case_.depths.end()); }
  int64_t other_bytes(const model::ModelConfig& config, DType dtype,
                      Backend& backend) const override {
    return bench::decode_bytes(config, dtype, backend, case_);
  }
  void measure(const bench::ServedModel& model, BenchReport& report) const override {
    for (bench::Measurement& m : bench::measure_decode(model, case_)) {
      report.row(model_.described(std::move(m), model.weights.description()));
    }
  }

 private:
  bench::DecodeCase case_{.depths = {0, 8192}};
};

class BenchTrainCommand : public Command {
 public:
  std::string name() const override { return "train"; }
  std::string description() const override {
    return "Training steps: forward, backward and AdamW on one sequence";
  }
  std::string example() const override {
    return "longgen bench train --shape smollm2-135m --tokens 2K \\\n"
           "      --hybrid \"full=middle:10 sparse=sink-window\"";
  }

  void add_options(CLI::App& app, const CommonOptions& common) override {
    common_ = &common;
    model_.add_to(app);
    add_lengths_option(app, "--tokens", tokens_, "Tokens of the sequence (2K)");
    app.add_option(
           "--recompute", recompute_,
           "What backward runs again: all, the MLP alone, none; auto: what --memory asks for")
        ->capture_default_str()
        ->check(CLI::IsMember({"auto", "all", "mlp", "none"}));
    add_length_option(app, "--memory", memory_,
                      "With --recompute auto: bytes (4G) within which as little as possible runs "
                      "again (on a CPU half of those available; on a GPU all does)");
    app.add_option("--optimizer-state", optimizer_state_,
                   "f32 (masters and moments) or bf16 (weights and moments without masters)")
        ->capture_default_str()
        ->check(CLI::IsMember({"f32", "bf16"}));
    app.add_option("--keep-outputs", keep_outputs_,
                   "With --recompute all: whose attention outputs are kept: none, full, "
                   "full+N (N sparse layers, too), all")
        ->capture_default_str();
    app.add_option("--offload", offload_, "To the host: none, outputs, activations")
        ->capture_default_str();
    app.add_flag("--no-warm-up", no_warm_up_, "Count the first step, too");
    add_length_option(app, "--mlp-chunk", mlp_chunk_, "Tokens a chunk of the MLP (2K)");
    add_length_option(app, "--loss-chunk", loss_chunk_, "Tokens a chunk of head and loss (1K)");
    options_.repeats = {.least = 1, .most = 7, .seconds = 5};
    options_.add_to(app);
  }

  int run() override {
    check();
    BenchReport report(*common_, options_);
    const model::ModelConfig config = model_.config();
    for (const int64_t tokens : tokens_) {
      bench::TrainCase c{.tokens = tokens, .dtype = bench_dtype(*common_, report.backend())};
      c.pass.recompute = recompute_ != "none";
      c.pass.recompute_attention = recompute_ != "mlp";
      if (recompute_ == "auto")
        c.memory = memory_.value_or(train::default_memory(report.backend()));
      train::parse_kept_outputs(keep_outputs_, c.pass);
      c.pass.offload = train::parse_offload(offload_);
      c.pass.mlp_chunk = std::min(tokens, mlp_chunk_);
      c.pass.loss_chunk = std::min(tokens, loss_chunk_);
      c.bf16_state = optimizer_state_ == "bf16";
      c.warm_up = !no_warm_up_;
      c.seed = common_->seed;
      report.row(with_memory(model_.described(
          bench::measure_train_step(config, c, report.backend(), options_.repeats))));
    }
    report.finish();
    return 0;
  }

 private:
  // Nothing that was asked for is passed over.
  void check() const {
    const bool keeps_outputs = recompute_ == "mlp" || recompute_ == "none";
    if (memory_ && recompute_ != "auto") {
      fail_usage("--memory goes with --recompute auto, not with --recompute {}", recompute_);
    }
    if (keep_outputs_ != "none" && keeps_outputs) {
      fail_usage("--keep-outputs {}: with --recompute {} all are kept", keep_outputs_, recompute_);
    }
    if (mlp_chunk_ < 1) fail_usage("--mlp-chunk {}: give at least one token", mlp_chunk_);
    if (loss_chunk_ < 1) fail_usage("--loss-chunk {}: give at least one token", loss_chunk_);
    for (const int64_t tokens : tokens_) {
      if (tokens < 2) fail_usage("--tokens {}: a training step takes at least 2", tokens);
    }
  }

  // What was planned and what was in use, below the row; under --json they are among its members.
  bench::Measurement with_memory(bench::Measurement m) const {
    if (common_->json) return m;
    m.breakdown_table += fmt::format("{}{}  {:<40} {:>10}", m.breakdown_table.empty() ? "" : "\n",
                                     m.memory_table, "in use", format_bytes(m.resident_bytes));
    return m;
  }

  const CommonOptions* common_ = nullptr;
  BenchOptions options_;
  ModelChoice model_;
  std::vector<int64_t> tokens_ = {2048};
  std::optional<int64_t> memory_;
  std::string recompute_ = "auto", optimizer_state_ = "f32", keep_outputs_ = "none";
  std::string offload_ = "none";
  int64_t mlp_chunk_ = 2048, loss_chunk_ = 1024;
  bool no_warm_up_ = false;
};

}  // namespace

std::unique_ptr<Command> make_bench_prefill_command() {
  return std::make_unique<BenchPrefillCommand>();
}

std::unique_ptr<Command> make_bench_decode_command() {
  return std::make_unique<BenchDecodeCommand>();
}

std::unique_ptr<Command> make_bench_train_command() {
  return std::make_unique<BenchTrainCommand>();
}

}  // namespace longgen::cli
