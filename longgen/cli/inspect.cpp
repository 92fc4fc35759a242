// longgen inspect: what a model is, and what its keys and values cost at a length.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "longgen/base/error.h"
#include "longgen/base/units.h"
#include "longgen/cli/command.h"
#include "longgen/formats/model_file.h"
#include "longgen/model/kv_size.h"
#include "longgen/model/weights.h"
#include "longgen/pattern/hybrid_spec.h"

namespace longgen::cli {
namespace {

using Json = nlohmann::ordered_json;

// People count parameters in millions and billions.
std::string count_name(int64_t count) {
  const double value = static_cast<double>(count);
  return value >= 1e9 ? fmt::format("{:.2f}B", value / 1e9) : fmt::format("{:.1f}M", value / 1e6);
}

std::string kept_name(const model::KvLayerRange& range) {
  return range.kept_min == range.kept_max ? fmt::format("{}", range.kept_max)
                                          : fmt::format("{}-{}", range.kept_min, range.kept_max);
}

std::string_view kind_name(formats::ModelKind kind) {
  switch (kind) {
    case formats::ModelKind::kHuggingFace:
      return "Hugging Face directory";
    case formats::ModelKind::kGguf:
      return "GGUF file";
    case formats::ModelKind::kConfigOnly:
      break;
  }
  return "configuration only";
}

std::string_view rope_name(model::RopeKind kind) {
  switch (kind) {
    case model::RopeKind::kLinear:
      return "linear";
    case model::RopeKind::kLlama3:
      return "llama3";
    case model::RopeKind::kYarn:
      return "yarn";
    case model::RopeKind::kDefault:
      break;
  }
  return "default";
}

std::string position_name(const model::ModelConfig& c) {
  if (c.position == model::PositionKind::kLearned) return "learned";
  const std::string part = c.rotary_dim == c.head_dim
                               ? ""
                               : fmt::format(" on {} of {} channels", c.rotary_dim, c.head_dim);
  return fmt::format("RoPE {} base {}{}", rope_name(c.rope.kind), c.rope.theta, part);
}

class InspectCommand : public Command {
 public:
  std::string name() const override { return "inspect"; }
  std::string description() const override {
    return "Show configuration, layers and their patterns, parameters, and KV bytes at a length";
  }
  std::string example() const override {
    return "longgen inspect Llama-2-7B/config.json --context 128K \\\n"
           "      --hybrid \"full=middle:12 sparse=local:32,sink:1\"";
  }

  void add_options(CLI::App& app, const CommonOptions& common) override {
    common_ = &common;
    app.add_option("model", path_, "Model folder, GGUF file, or config.json")->required();
    add_length_option(app, "--context", context_, "Tokens to count for (the model's own length)");
    app.add_option("--hybrid", hybrid_,
                   "Look at it as a hybrid: full=middle:K|top:K|bottom:K|interleaved:K|LIST "
                   "sparse=sink-window|strided|local:N,sink:N,stride:N,block:N,offset:N");
  }

  int run() override {
    const auto file = formats::ModelFile::open(path_);
    model::ModelConfig config = file.config();
    if (!hybrid_.empty()) {
      config.patterns = HybridSpec::parse(hybrid_).resolve(config.num_layers, config.num_kv_heads);
    }
    const int64_t context = context_ >= 0 ? context_ : config.max_position_embeddings;
    const DType dtype = dtype_or(*common_, DType::kBF16);
    const model::KvSize size = model::kv_size(config, context, dtype);
    if (common_->json) {
      fmt::print("{}\n", as_json(file, config, size, context, dtype).dump(2));
    } else {
      print_model(file, config);
      print_table(size, context, dtype);
    }
    return 0;
  }

 private:
  void print_model(const formats::ModelFile& file, const model::ModelConfig& c) const {
    const int64_t parameters = model::parameter_count(c);
    fmt::print("model         {}\n", path_);
    fmt::print("kind          {}, {}{}\n", c.family, c.is_hybrid() ? "hybrid, " : "",
               kind_name(file.kind()));
    fmt::print("layers        {}, hidden {}, MLP {}\n", c.num_layers, c.hidden_size,
               c.intermediate_size);
    fmt::print("attention     {} heads of {}, {} for keys and values\n", c.num_heads, c.head_dim,
               c.num_kv_heads);
    fmt::print("vocabulary    {}, head {}\n", c.vocab_size,
               c.tie_word_embeddings ? "tied to the embedding" : "of its own");
    fmt::print("positions     {}, {}\n", c.max_position_embeddings, position_name(c));
    if (c.native_window > 0) {
      fmt::print("              (trained with a sliding window of {}; more takes longgen extend)\n",
                 c.native_window);
    }
    fmt::print("parameters    {} ({}): {} as f32, {} as bf16\n", count_name(parameters), parameters,
               format_bytes(parameters * 4), format_bytes(parameters * 2));
    if (const auto kept = quantized_weights(file, c)) {
      fmt::print("              {} as stored ({})\n", format_bytes(kept->bytes), kept->types);
    }
    fmt::print("\n");
  }

  void print_table(const model::KvSize& size, int64_t context, DType dtype) const {
    fmt::print("keys and values ({}) at {} tokens\n", dtype_name(dtype), format_length(context));
    fmt::print("{:<10} {:<26} {:>13} {:>12} {:>12}\n", "layers", "pattern", "kept tokens",
               "one layer", "together");
    for (const model::KvLayerRange& range : size.ranges) {
      fmt::print("{:<10} {:<26} {:>13} {:>12} {:>12}\n", range.name(), range.pattern.to_string(),
                 kept_name(range), format_bytes(range.layer_bytes), format_bytes(range.bytes()));
    }
    fmt::print("{:<64} {:>12}\n", "total", format_bytes(size.bytes));
    fmt::print("{:<64} {:>12}  ({:.1f} %)\n", "all layers full", format_bytes(size.all_full_bytes),
               percent(size));
  }

  // The weights as generate keeps them; none when the file quantises nothing that products take as
  // it is.
  struct QuantizedWeights {
    int64_t bytes;
    std::string types;
  };
  std::optional<QuantizedWeights> quantized_weights(const formats::ModelFile& file,
                                                    const model::ModelConfig& config) const {
    const std::vector<WeightScheme> schemes = file.weight_schemes();
    if (std::all_of(schemes.begin(), schemes.end(),
                    [](WeightScheme scheme) { return scheme == WeightScheme::kPlain; })) {
      return std::nullopt;
    }
    NoMemory nothing;
    const model::ParameterSet weights("weights", config, dtype_or(*common_, DType::kBF16), nothing,
                                      schemes);
    return QuantizedWeights{weights.bytes(), weights.description()};
  }

  static double percent(const model::KvSize& size) {
    return size.all_full_bytes == 0
               ? 100
               : 100 * static_cast<double>(size.bytes) / static_cast<double>(size.all_full_bytes);
  }

  Json as_json(const formats::ModelFile& file, const model::ModelConfig& c,
               const model::KvSize& size, int64_t context, DType dtype) const {
    Json json;
    json["model"] = path_;
    json["kind"] = kind_name(file.kind());
    json["family"] = c.family;
    json["hybrid"] = c.is_hybrid();
    json["layers"] = c.num_layers;
    json["hidden_size"] = c.hidden_size;
    json["intermediate_size"] = c.intermediate_size;
    json["heads"] = c.num_heads;
    json["kv_heads"] = c.num_kv_heads;
    json["head_dim"] = c.head_dim;
    json["vocab_size"] = c.vocab_size;
    json["tie_word_embeddings"] = c.tie_word_embeddings;
    json["max_position_embeddings"] = c.max_position_embeddings;
    if (c.native_window > 0) json["native_window"] = c.native_window;
    json["rope"] = {{"type", rope_name(c.rope.kind)}, {"theta", c.rope.theta}};
    json["parameters"] = model::parameter_count(c);
    if (const auto kept = quantized_weights(file, c)) json["quantized_bytes"] = kept->bytes;
    json["context"] = context;
    json["kv_dtype"] = dtype_name(dtype);
    json["kv_layers"] = Json::array();
    for (const model::KvLayerRange& range : size.ranges) {
      json["kv_layers"].push_back({{"first", range.first},
                                   {"last", range.last},
                                   {"pattern", range.pattern.to_string()},
                                   {"block_size", range.pattern.block_size},
                                   {"kept_tokens", {range.kept_min, range.kept_max}},
                                   {"layer_bytes", range.layer_bytes},
                                   {"bytes", range.bytes()}});
    }
    json["kv_bytes"] = size.bytes;
    json["kv_bytes_all_full"] = size.all_full_bytes;
    return json;
  }

  const CommonOptions* common_ = nullptr;
  std::string path_, hybrid_;
  int64_t context_ = -1;  // the model's own
};

}  // namespace

std::unique_ptr<Command> make_inspect_command() { return std::make_unique<InspectCommand>(); }

}  // namespace longgen::cli
