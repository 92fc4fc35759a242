#include "longgen/formats/hf_config.h"

#include <algorithm>
#include <array>

#include "longgen/base/error.h"

namespace longgen::formats {
namespace {

using model::ModelConfig;

constexpr std::string_view kFull = "full_attention", kSparse = "sliding_attention";
// What Transformers assumes where some families' configurations do not name a window.
constexpr int64_t kTransformersWindow = 4096;

// Keys that are not carried over: ours to write, of another place or time, or refused when they say
// something.
constexpr std::array<std::string_view, 17> kDropped = {"architectures",
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
                                                       "rope_theta",
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

// A setting that would change what the model computes and that is not read.
void refuse_quantization(const JsonObject& config) {
  if (config.has("quantization_config")) {
    config.fail_at("quantization_config",
                   "is set: quantised Hugging Face checkpoints are not read; "
                   "use the original weights or a GGUF file");
  }
}

// Whether layer_types calls a layer sliding. Throws Error on other kinds than full and sliding.
bool any_sliding_layer(const JsonObject& config) {
  const Json& types = config.at("layer_types");
  const bool known = types.is_array() &&
                     std::all_of(types.begin(), types.end(),
                                 [](const Json& type) { return type == kFull || type == kSparse; });
  if (!known) {
    config.fail_at("layer_types",
                   "names layers other than \"full_attention\" and "
                   "\"sliding_attention\"; no other attention is supported");
  }
  return std::find(types.begin(), types.end(), kSparse) != types.end();
}

// The least of sliding_window; 0: none. A list has an entry per layer.
int64_t read_window(const JsonObject& config, const Family& family) {
  if (!config.has("sliding_window")) {
    const bool absent = !config.json().contains("sliding_window");
    return absent && family.window != WindowKeys::kPlain ? kTransformersWindow : 0;
  }
  const auto windows = config.integers("sliding_window", 1, std::numeric_limits<int64_t>::max());
  if (windows.empty()) config.fail_at("sliding_window", "is an empty list");
  return *std::min_element(windows.begin(), windows.end());
}

// Whether a layer has a window is decided as Transformers does. A hybrid's layer_types are ours.
void read_native_window(const JsonObject& config, const Family& family, bool hybrid,
                        ModelConfig& model) {
  const bool typed = !hybrid && config.has("layer_types");
  const bool sliding = typed && any_sliding_layer(config);
  const bool qwen = family.window == WindowKeys::kQwen;
  if (!config.boolean_or("use_sliding_window", !qwen)) {
    if (sliding) {
      config.fail_at("layer_types", "names sliding layers, but use_sliding_window is not true");
    }
    return;
  }
  const int64_t first_layer = config.integer_or("max_window_layers", 28, 0, kMaxDimension);
  if (qwen && !(typed ? sliding : first_layer < model.num_layers)) return;
  const int64_t window = hybrid && !config.has("sliding_window") ? 0 : read_window(config, family);
  if (window == 0 && sliding) {
    config.fail_at("layer_types", "names sliding layers, but there is no sliding_window");
  }
  if (window == 0 || window >= model.max_position_embeddings) return;
  if (model.position == model::PositionKind::kLearned) {
    config.fail_at("sliding_window", "is not supported for this family");
  }
  model.native_window = model.max_position_embeddings = window;
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
    ModelConfig model = family.read_config(config);
    read_native_window(config, family, /*hybrid=*/false, model);
    return model;
  }
  const JsonObject longgen = config.object("longgen");
  const int64_t version = longgen.integer("format_version", 1, kMaxDimension);
  if (version != kLonggenFormatVersion) {
    longgen.fail_at("format_version", fmt::format("is {}; this program reads {}: use a newer one",
                                                  version, kLonggenFormatVersion));
  }
  const Family& family = find_family(longgen.string("base_model_type"), longgen.where());
  ModelConfig model = family.read_config(config);
  read_native_window(config, family, /*hybrid=*/true, model);
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

// Throws Error naming the first switch in which the family's own reader, given what its writer
// wrote, comes to another model.
void check_expressible(const Family& family, const ModelConfig& model, const OrderedJson& written) {
  const Json json = Json::parse(written.dump());
  const ModelConfig back = family.read_config(JsonObject(json, "config.json to be written"));
  const auto same = [&](bool equal, std::string_view what) {
    if (!equal) {
      fail("a {} config.json cannot express {}; nothing is written", family.model_type, what);
    }
  };
  same(back.norm == model.norm && back.norm_bias == model.norm_bias, "this kind of norm");
  same(back.norm_eps == model.norm_eps, "this epsilon of the norms");
  same(back.qkv_bias == model.qkv_bias && back.o_bias == model.o_bias,
       "these biases of the attention's projections");
  same(back.gated_mlp == model.gated_mlp,
       model.gated_mlp ? "an MLP with a gate" : "an MLP without a gate");
  same(back.mlp_bias == model.mlp_bias, "these biases of the MLP");
  same(back.activation == model.activation, "this activation");
  same(back.parallel_residual == model.parallel_residual, "this order of the residual branches");
  same(back.qk_norm == model.qk_norm, "these norms of queries and keys");
  same(back.position == model.position &&
           back.learned_position_offset == model.learned_position_offset,
       "this kind of positions");
  same(back.rotary_dim == model.rotary_dim, "a partial rotation");
  same(back.rope == model.rope, "this scaling of the rotation");
  same(back.num_kv_heads == model.num_kv_heads && back.head_dim == model.head_dim,
       "these heads for queries, keys and values");
  same(back.tie_word_embeddings == model.tie_word_embeddings, "this kind of head");
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

// Names of classes in modeling_longgen.py: "LonggenConfig" for Llama, "LonggenQwen2Config", ...
std::string hybrid_class(const Family& family, std::string_view kind) {
  std::string_view base = family.architecture.substr(0, family.architecture.find("ForCausalLM"));
  if (base == "Llama") base = "";
  return fmt::format("Longgen{}{}", base, kind);
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
  refuse_quantization(config);
  result.model = read_model(config);
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
  out["architectures"] = {hybrid ? hybrid_class(family, "ForCausalLM")
                                 : std::string(family.architecture)};
  out["model_type"] = hybrid ? "longgen" : family.model_type;
  if (hybrid) {
    out["auto_map"]["AutoConfig"] = "modeling_longgen." + hybrid_class(family, "Config");
    out["auto_map"]["AutoModelForCausalLM"] =
        "modeling_longgen." + hybrid_class(family, "ForCausalLM");
  }
  family.write_config(model, out);
  check_expressible(family, model, out);
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
