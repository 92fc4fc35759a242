#include "longgen/formats/hf_config.h"

#include <algorithm>
#include <array>

#include "longgen/base/error.h"

namespace longgen::formats {
namespace {

using model::ModelConfig;

constexpr std::string_view kFull = "full_attention", kSparse = "sliding_attention";

// Keys that are not carried over: ours to write, of another place or time, or refused when they say
// something.
constexpr std::array<std::string_view, 16> kDropped = {"architectures",
                                                       "model_type",
                                                       "auto_map",
                                                       "torch_dtype",
                                                       "dtype",
                                                       "layer_types",
                                                       "longgen",
                                                       "_name_or_path",
                                                       "transformers_version",
                                                       "quantization_config",
                                                       "sliding_window",
                                                       "use_sliding_window",
                                                       "max_window_layers",
                                                       "rope_scaling",
                                                       "partial_rotary_factor",
                                                       "_attn_implementation_autoset"};

std::optional<DType> read_dtype(const JsonObject& config) {
  const std::string name = config.string_or(config.has("dtype") ? "dtype" : "torch_dtype", "");
  if (name == "float64") return DType::kF64;
  if (name == "float32") return DType::kF32;
  if (name == "float16") return DType::kF16;
  if (name == "bfloat16") return DType::kBF16;
  return std::nullopt;
}

std::string_view torch_name(DType dtype) {
  if (dtype == DType::kF32) return "float32";
  if (dtype == DType::kBF16) return "bfloat16";
  if (dtype == DType::kF16) return "float16";
  if (dtype == DType::kF64) return "float64";
  fail("config.json has no name for dtype {}", dtype_name(dtype));
}

// Settings that would change what the model computes and that are not read.
void refuse_unread_settings(const JsonObject& config, const ModelConfig& model) {
  const Json* quantization = config.find("quantization_config");
  if (quantization != nullptr) {
    config.fail_at("quantization_config",
                   "is set: quantised Hugging Face checkpoints are not read; "
                   "use the original weights or a GGUF file");
  }
  if (config.has("sliding_window") && config.boolean_or("use_sliding_window", true)) {
    for (int64_t window :
         config.integers("sliding_window", 0, std::numeric_limits<int64_t>::max())) {
      if (window < model.max_position_embeddings) {
        config.fail_at(
            "sliding_window",
            fmt::format("is {}, less than max_position_embeddings {}: the model was "
                        "trained with a sliding window of its own, which is not supported",
                        window, model.max_position_embeddings));
      }
    }
  }
}

void refuse_sliding_layers(const JsonObject& config) {
  const Json* types = config.find("layer_types");
  if (types == nullptr) return;
  const bool full =
      types->is_array() &&
      std::all_of(types->begin(), types->end(), [](const Json& type) { return type == kFull; });
  if (!full) {
    config.fail_at("layer_types",
                   "names layers other than \"full_attention\": a model trained with "
                   "a sliding window of its own is not supported");
  }
}

AttentionPattern read_pattern(const JsonObject& object, int64_t num_kv_heads) {
  constexpr int64_t kMaxBlocks = int64_t{1} << 31;
  AttentionPattern pattern;
  pattern.block_size = object.integer("block_size", 1, kMaxBlocks);
  pattern.sink_blocks = object.integer("sink_blocks", 0, kMaxBlocks);
  pattern.local_blocks =
      object.integer_or("local_blocks", AttentionPattern::kAll, 1, AttentionPattern::kAll);
  pattern.stride = object.integer_or("stride", 0, 0, kMaxBlocks);
  if (object.has("offsets")) pattern.offsets = object.integers("offsets", 0, kMaxBlocks);
  try {
    pattern.validate(num_kv_heads);
  } catch (const Error& error) {
    fail("{}: {}", object.where(), error.what());
  }
  return pattern;
}

void check_layer_types(const JsonObject& config, const ModelConfig& model) {
  const Json& types = config.at("layer_types");
  if (!types.is_array() || types.size() != model.patterns.size()) {
    config.fail_at("layer_types", fmt::format("must be an array of {}", model.patterns.size()));
  }
  for (size_t i = 0; i < types.size(); ++i) {
    if (types[i] != (model.patterns[i].is_full() ? kFull : kSparse)) {
      config.fail_at("layer_types", fmt::format("[{}] disagrees with longgen.layer_patterns", i));
    }
  }
}

// The patterns of a model that longgen wrote.
void read_patterns(const JsonObject& config, const JsonObject& longgen, ModelConfig& model) {
  const Json& list = longgen.at("patterns");
  if (!list.is_array() || list.empty() || list.size() > static_cast<size_t>(kMaxLayers)) {
    longgen.fail_at("patterns", fmt::format("must be an array of 1 to {}", kMaxLayers));
  }
  std::vector<AttentionPattern> patterns;
  for (size_t i = 0; i < list.size(); ++i) {
    const JsonObject object(list[i], fmt::format("{}: patterns[{}]", longgen.where(), i));
    patterns.push_back(read_pattern(object, model.num_kv_heads));
    if (patterns.back().block_size != patterns[0].block_size) {
      object.fail_at("block_size", "differs from that of the first pattern");
    }
  }
  if (!longgen.at("layer_patterns").is_array()) {
    longgen.fail_at("layer_patterns", "must be an array");
  }
  const auto layers =
      longgen.integers("layer_patterns", 0, static_cast<int64_t>(patterns.size()) - 1);
  if (static_cast<int64_t>(layers.size()) != model.num_layers) {
    longgen.fail_at("layer_patterns", fmt::format("has {} entries for num_hidden_layers {}",
                                                  layers.size(), model.num_layers));
  }
  model.patterns.clear();
  for (int64_t index : layers) model.patterns.push_back(patterns[static_cast<size_t>(index)]);
  check_layer_types(config, model);
}

ModelConfig read_model(const JsonObject& config) {
  const std::string model_type = config.string("model_type");
  if (model_type != "longgen") {
    const Family& family = find_family(model_type, config.where());
    refuse_sliding_layers(config);
    return family.read_config(config);
  }
  const JsonObject longgen = config.object("longgen");
  const int64_t version = longgen.integer("format_version", 1, kMaxDimension);
  if (version != kLonggenFormatVersion) {
    longgen.fail_at("format_version", fmt::format("is {}; this program reads {}: use a newer one",
                                                  version, kLonggenFormatVersion));
  }
  const Family& family = find_family(longgen.string("base_model_type"), longgen.where());
  ModelConfig model = family.read_config(config);
  read_patterns(config, longgen, model);
  return model;
}

// What is left of the source's keys once those that write_config writes are taken away.
std::string read_extras(const JsonObject& config, const ModelConfig& model) {
  OrderedJson ours;
  find_family(model.family, config.where()).write_config(model, ours);
  Json extras = Json::object();
  for (const auto& [key, value] : config.json().items()) {
    const bool dropped = std::find(kDropped.begin(), kDropped.end(), key) != kDropped.end();
    if (!dropped && !ours.contains(key)) extras[key] = value;
  }
  return extras.dump();
}

OrderedJson pattern_json(const AttentionPattern& pattern) {
  OrderedJson json;
  json["block_size"] = pattern.block_size;
  json["sink_blocks"] = pattern.sink_blocks;
  json["local_blocks"] =
      pattern.is_full() ? OrderedJson(nullptr) : OrderedJson(pattern.local_blocks);
  json["stride"] = pattern.stride;
  json["offsets"] = pattern.offsets;
  return json;
}

void write_patterns(const ModelConfig& model, OrderedJson& out) {
  std::vector<AttentionPattern> patterns;
  OrderedJson types = OrderedJson::array(), layers = OrderedJson::array();
  OrderedJson list = OrderedJson::array();
  for (const AttentionPattern& pattern : model.patterns) {
    types.push_back(pattern.is_full() ? kFull : kSparse);
    const auto it = std::find(patterns.begin(), patterns.end(), pattern);
    layers.push_back(it - patterns.begin());
    if (it != patterns.end()) continue;
    patterns.push_back(pattern);
    list.push_back(pattern_json(pattern));
  }
  out["layer_types"] = types;
  OrderedJson longgen;
  longgen["format_version"] = kLonggenFormatVersion;
  longgen["base_model_type"] = model.family;
  longgen["patterns"] = list;
  longgen["layer_patterns"] = layers;
  out["longgen"] = longgen;
}

}  // namespace

HfConfig read_hf_config(const Json& json, const std::string& where) {
  const JsonObject config(json, where);
  HfConfig result;
  result.model = read_model(config);
  refuse_unread_settings(config, result.model);
  try {
    result.model.validate();
  } catch (const Error& error) {
    fail("{}: {}", where, error.what());
  }
  result.dtype = read_dtype(config);
  result.extras = read_extras(config, result.model);
  return result;
}

std::string write_hf_config(const ModelConfig& model, DType dtype, const std::string& extras) {
  const Family& family = find_family(model.family, "config.json to be written");
  const bool hybrid = model.is_hybrid();
  OrderedJson out;
  out["architectures"] = {hybrid ? "LonggenForCausalLM" : family.architecture};
  out["model_type"] = hybrid ? "longgen" : family.model_type;
  if (hybrid) {
    out["auto_map"]["AutoConfig"] = "modeling_longgen.LonggenConfig";
    out["auto_map"]["AutoModelForCausalLM"] = "modeling_longgen.LonggenForCausalLM";
  }
  family.write_config(model, out);
  out["torch_dtype"] = torch_name(dtype);
  out["dtype"] = torch_name(dtype);
  if (hybrid) write_patterns(model, out);
  if (!extras.empty()) {
    const Json parsed = parse_json(extras, "keys kept from the source's config.json");
    for (const auto& [key, value] : parsed.items()) {
      if (!out.contains(key)) out[key] = value;
    }
  }
  return out.dump(2) + "\n";
}

}  // namespace longgen::formats
