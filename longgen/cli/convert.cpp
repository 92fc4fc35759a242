// longgen convert: any readable model to a Hugging Face directory, hybrid if asked.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "longgen/base/error.h"
#include "longgen/base/interrupt.h"
#include "longgen/base/log.h"
#include "longgen/base/progress.h"
#include "longgen/base/units.h"
#include "longgen/cli/command.h"
#include "longgen/formats/model_file.h"
#include "longgen/formats/model_writer.h"
#include "longgen/pattern/hybrid_spec.h"
#include "longgen/tensor/arena.h"
#include "longgen/tokenizer/tokenizer.h"

namespace longgen::cli {
namespace {

class ConvertCommand : public Command {
 public:
  std::string name() const override { return "convert"; }
  std::string description() const override {
    return "Write a GGUF or Hugging Face model as a Hugging Face directory, hybrid if asked";
  }
  std::string example() const override {
    return "longgen convert SmolLM2-135M-Instruct.Q4_1.gguf -o smollm2-hybrid \\\n"
           "      --hybrid \"full=middle:10 sparse=sink-window\"";
  }

  void add_options(CLI::App& app, const CommonOptions& common) override {
    common_ = &common;
    app.add_option("model", path_, "Model folder or GGUF file")->required();
    app.add_option("-o,--output", output_, "Folder to write")->required();
    app.add_option("--hybrid", hybrid_,
                   "full=middle:K|top:K|bottom:K|interleaved:K|LIST "
                   "sparse=sink-window|strided|local:N,sink:N,stride:N,block:N,offset:N");
    app.add_option("--rope-theta", rope_theta_, "Another RoPE base");
    add_length_option(app, "--max-position", max_position_, "Another max_position_embeddings");
    app.add_flag("--force", force_, "Replace the model in the output folder");
  }

  int run() override {
    const auto existing =
        force_ ? formats::ExistingOutput::kReplaceModel : formats::ExistingOutput::kRefuse;
    const auto file = formats::ModelFile::open(path_);
    file.check_weights();
    formats::check_model_output(output_, existing);
    const auto tokenizer = tokenizer::Tokenizer::load(file);
    const model::ModelConfig config = changed_config(file.config());
    // Without --dtype nothing is lost.
    const DType dtype = dtype_or(*common_, file.lossless_dtype());

    // Ctrl-C must leave nothing behind: the writer's destructor removes what was written.
    const InterruptGuard interrupt;
    try {
      formats::ModelWriter writer(output_, config, file.extras(),
                                  {.dtype = dtype, .existing = existing});
      copy_weights(file, config, writer, interrupt);
      tokenizer->save(writer.staging());
      writer.commit();
    } catch (const Interrupted&) {
      warn("interrupted; {} is as it was", output_);
      return kExitInterrupted;
    }
    report(config, dtype);
    return 0;
  }

 private:
  model::ModelConfig changed_config(model::ModelConfig config) const {
    if (!hybrid_.empty()) {
      config.patterns = HybridSpec::parse(hybrid_).resolve(config.num_layers, config.num_kv_heads);
    }
    if (rope_theta_) {
      if (!(*rope_theta_ >= 2 && *rope_theta_ <= 1e15)) {
        fail_usage("--rope-theta {}: give a base from 2 to 1e15", *rope_theta_);
      }
      config.rope.theta = *rope_theta_;
    }
    if (max_position_ != -1) {
      if (max_position_ < 1) fail_usage("--max-position must be at least 1");
      config.max_position_embeddings = max_position_;
    }
    config.validate();
    return config;
  }

  // One tensor at a time, through a buffer of the largest.
  void copy_weights(const formats::ModelFile& file, const model::ModelConfig& config,
                    formats::ModelWriter& writer, const InterruptGuard& interrupt) const {
    int64_t largest = 0;
    for (const auto& spec : model::param_specs(config)) largest = std::max(largest, spec.numel());
    HostMemory memory;
    Arena buffer("conversion buffer", memory, largest * 4 + 64);
    Progress progress("convert", model::parameter_count(config), "parameters",
                      common_->verbosity < 0);
    int64_t done = 0;
    writer.write_weights([&](const model::ParamSpec& spec) {
      if (interrupt.requested()) throw Interrupted{};
      buffer.rewind(0);
      const Tensor tensor = buffer.allocate(spec.name, DType::kF32, spec.shape);
      file.read_weight(spec.name, tensor);
      done += spec.numel();
      progress.update(done);
      return tensor;
    });
    progress.finish();
  }

  void report(const model::ModelConfig& config, DType dtype) const {
    const int64_t bytes = model::parameter_count(config) * dtype_size(dtype);
    const auto full = std::count_if(config.patterns.begin(), config.patterns.end(),
                                    [](const AttentionPattern& p) { return p.is_full(); });
    info("wrote {}: {} layers, {} of them full, {} {}", output_, config.num_layers, full,
         format_bytes(bytes), dtype_name(dtype));
    if (!common_->json) return;
    nlohmann::ordered_json json;
    json["output"] = output_;
    json["hybrid"] = config.is_hybrid();
    json["full_layers"] = full;
    json["dtype"] = dtype_name(dtype);
    json["weight_bytes"] = bytes;
    fmt::print("{}\n", json.dump(2));
  }

  const CommonOptions* common_ = nullptr;
  std::string path_, output_, hybrid_;
  std::optional<double> rope_theta_;
  int64_t max_position_ = -1;  // -1: as it is
  bool force_ = false;
};

}  // namespace

std::unique_ptr<Command> make_convert_command() { return std::make_unique<ConvertCommand>(); }

}  // namespace longgen::cli
