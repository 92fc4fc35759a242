// Llama's row of the table: Llama 1 to 3, SmolLM2, TinyLlama and others with model_type "llama".
#include <array>
#include <charconv>

#include "longgen/base/error.h"
#include "longgen/formats/family.h"
#include "longgen/formats/hf_rope.h"

namespace longgen::formats {
namespace {

using model::ModelConfig;

// The activations that Llama's config may name.
struct ActivationName {
  std::string_view name;
  Activation activation;
};
constexpr std::array<ActivationName, 6> kActivations = {{
    {"silu", Activation::kSilu},
    {"swish", Activation::kSilu},
    {"gelu", Activation::kGelu},
    {"gelu_pytorch_tanh", Activation::kGeluTanh},
    {"gelu_new", Activation::kGeluTanh},
    {"relu", Activation::kRelu},
}};

Activation read_activation(const JsonObject& config) {
  const std::string name = config.string_or("hidden_act", "silu");
  for (const ActivationName& known : kActivations) {
    if (known.name == name) return known.activation;
  }
  config.fail_at("hidden_act", fmt::format("\"{}\" is not supported", name));
}

std::string_view activation_name(Activation activation) {
  for (const ActivationName& known : kActivations) {
    if (known.activation == activation) return known.name;
  }
  fail("an activation has no name in config.json");
}

int64_t read_head_dim(const JsonObject& config, const ModelConfig& model) {
  if (config.has("head_dim")) return config.integer("head_dim", 1, kMaxDimension);
  if (model.hidden_size % model.num_heads != 0) {
    config.fail_at("hidden_size", fmt::format("{} is no multiple of num_attention_heads {}, and "
                                              "there is no head_dim",
                                              model.hidden_size, model.num_heads));
  }
  return model.hidden_size / model.num_heads;
}

ModelConfig read_config(const JsonObject& config) {
  ModelConfig model;
  model.family = "llama";
  model.vocab_size = config.integer("vocab_size", 1, kMaxDimension);
  model.hidden_size = config.integer("hidden_size", 1, kMaxDimension);
  model.intermediate_size = config.integer("intermediate_size", 1, kMaxDimension);
  model.num_layers = config.integer("num_hidden_layers", 1, kMaxLayers);
  model.num_heads = config.integer("num_attention_heads", 1, kMaxDimension);
  model.num_kv_heads =
      config.integer_or("num_key_value_heads", model.num_heads, 1, model.num_heads);
  if (model.num_heads % model.num_kv_heads != 0) {
    config.fail_at("num_key_value_heads", fmt::format("{} does not divide num_attention_heads {}",
                                                      model.num_kv_heads, model.num_heads));
  }
  model.head_dim = read_head_dim(config, model);
  model.rotary_dim = model.head_dim;
  model.max_position_embeddings = config.integer("max_position_embeddings", 1, kMaxDimension);
  model.norm_eps = config.number_or("rms_norm_eps", 1e-6, 1e-12, 1);
  model.qkv_bias = model.o_bias = config.boolean_or("attention_bias", false);
  model.mlp_bias = config.boolean_or("mlp_bias", false);
  model.activation = read_activation(config);
  model.rope = read_hf_rope(config, model.max_position_embeddings);
  model.tie_word_embeddings = config.boolean_or("tie_word_embeddings", false);
  if (config.number_or("partial_rotary_factor", 1, 0, 1) != 1) {
    config.fail_at("partial_rotary_factor", "other than 1 is not supported for this family");
  }
  model::set_full_attention(model);
  return model;
}

void require_expressible(const ModelConfig& model) {
  const auto check = [](bool good, std::string_view what) {
    if (!good) fail("a Llama config.json cannot express {}; nothing is written", what);
  };
  check(model.norm == NormKind::kRms && !model.norm_bias, "this kind of norm");
  check(model.qkv_bias == model.o_bias, "biases on only a part of the attention's projections");
  check(model.gated_mlp, "an MLP without a gate");
  check(!model.parallel_residual, "parallel residual branches");
  check(!model.qk_norm, "norms of queries and keys");
  check(model.position == model::PositionKind::kRope, "learned positions");
  check(model.rotary_dim == model.head_dim, "a partial rotation");
}

void write_config(const ModelConfig& model, OrderedJson& out) {
  require_expressible(model);
  out["vocab_size"] = model.vocab_size;
  out["hidden_size"] = model.hidden_size;
  out["intermediate_size"] = model.intermediate_size;
  out["num_hidden_layers"] = model.num_layers;
  out["num_attention_heads"] = model.num_heads;
  out["num_key_value_heads"] = model.num_kv_heads;
  out["head_dim"] = model.head_dim;
  out["hidden_act"] = activation_name(model.activation);
  out["max_position_embeddings"] = model.max_position_embeddings;
  out["rms_norm_eps"] = model.norm_eps;
  out["attention_bias"] = model.qkv_bias;
  out["mlp_bias"] = model.mlp_bias;
  out["tie_word_embeddings"] = model.tie_word_embeddings;
  write_hf_rope(model.rope, out);
}

// A number stored as f32 back to the short decimal that it came from: 9.99999975e-06 -> 1e-05.
double shortest_decimal(double value) {
  const std::string text = fmt::format("{}", static_cast<float>(value));
  double result = value;
  std::from_chars(text.data(), text.data() + text.size(), result);
  return result;
}

model::RopeConfig read_gguf_rope(const GgufFile& file, int64_t max_position_embeddings) {
  model::RopeConfig rope;
  rope.theta = shortest_decimal(file.number_or("llama.rope.freq_base", 10000, 2, 1e15));
  if (file.find("rope_freqs.weight") != nullptr) {
    fail(
        "{}: tensor rope_freqs.weight: Llama-3 frequency factors are not read from GGUF; use the "
        "model's Hugging Face directory",
        file.path().string());
  }
  for (const char* key :
       {"llama.rope.scaling.yarn_ext_factor", "llama.rope.scaling.yarn_attn_factor",
        "llama.rope.scaling.yarn_log_multiplier"}) {
    if (file.has(key)) {
      fail("{}: metadata key {} is not supported; use the model's Hugging Face directory",
           file.path().string(), key);
    }
  }
  const std::string type = file.string_or("llama.rope.scaling.type", "none");
  // Files from before scaling.type had a single linear factor.
  const double old_linear = file.number_or("llama.rope.scale_linear", 1, 1, 1e6);
  if (type == "none" && old_linear == 1) return rope;
  rope.factor = shortest_decimal(file.number_or("llama.rope.scaling.factor", old_linear, 1, 1e6));
  if (type == "none" || type == "linear") {
    rope.kind = model::RopeKind::kLinear;
    return rope;
  }
  if (type != "yarn") {
    fail(
        "{}: metadata key llama.rope.scaling.type \"{}\" is not supported; none, linear and yarn "
        "are",
        file.path().string(), type);
  }
  rope.kind = model::RopeKind::kYarn;
  rope.original_max_position_embeddings = file.integer_or(
      "llama.rope.scaling.original_context_length", max_position_embeddings, 1, kMaxDimension);
  rope.beta_fast =
      shortest_decimal(file.number_or("llama.rope.scaling.yarn_beta_fast", 32, 1e-3, 1e6));
  rope.beta_slow =
      shortest_decimal(file.number_or("llama.rope.scaling.yarn_beta_slow", 1, 1e-3, 1e6));
  if (file.number_or("llama.rope.scaling.attn_factor", 1, 0, 1e6) != 1) {
    fail(
        "{}: metadata key llama.rope.scaling.attn_factor other than 1 is not supported; use the "
        "model's Hugging Face directory",
        file.path().string());
  }
  return rope;
}

// Architectures that share the name "llama" in GGUF but are something else.
void refuse_other_kinds(const GgufFile& file, const ModelConfig& model) {
  if (file.integer_or("llama.expert_count", 0, 0, kMaxDimension) > 0) {
    fail("{}: metadata key llama.expert_count: mixtures of experts are not supported",
         file.path().string());
  }
  if (file.integer_or("split.count", 1, 0, 65535) > 1) {
    fail(
        "{}: metadata key split.count: the model is split over several files; merge them first "
        "(llama-gguf-split --merge)",
        file.path().string());
  }
  const int64_t window = file.integer_or("llama.attention.sliding_window", 0, 0, kMaxDimension);
  if (window > 0 && window < model.max_position_embeddings) {
    fail(
        "{}: metadata key llama.attention.sliding_window is {}: a model trained with a sliding "
        "window of its own is not supported",
        file.path().string(), window);
  }
  const int64_t rotary =
      file.integer_or("llama.rope.dimension_count", model.head_dim, 0, kMaxDimension);
  if (rotary != model.head_dim) {
    fail(
        "{}: metadata key llama.rope.dimension_count is {}, but heads have {} channels; a partial "
        "rotation is not supported for this family",
        file.path().string(), rotary, model.head_dim);
  }
}

int64_t gguf_vocab_size(const GgufFile& file) {
  const GgufTensor* embedding = file.find("token_embd.weight");
  if (embedding != nullptr && embedding->shape.size() == 2) return embedding->shape[0];
  return file.integer("llama.vocab_size", 1, kMaxDimension);
}

ModelConfig read_gguf_config(const GgufFile& file) {
  ModelConfig model;
  model.family = "llama";
  model.vocab_size = gguf_vocab_size(file);
  model.hidden_size = file.integer("llama.embedding_length", 1, kMaxDimension);
  model.intermediate_size = file.integer("llama.feed_forward_length", 1, kMaxDimension);
  model.num_layers = file.integer("llama.block_count", 1, kMaxLayers);
  model.num_heads = file.integer("llama.attention.head_count", 1, kMaxDimension);
  model.num_kv_heads =
      file.integer_or("llama.attention.head_count_kv", model.num_heads, 1, model.num_heads);
  if (model.num_heads % model.num_kv_heads != 0 ||
      (!file.has("llama.attention.key_length") && model.hidden_size % model.num_heads != 0)) {
    fail(
        "{}: metadata keys llama.attention.head_count {}, head_count_kv {} and embedding_length {} "
        "do not fit together",
        file.path().string(), model.num_heads, model.num_kv_heads, model.hidden_size);
  }
  model.head_dim = file.integer_or("llama.attention.key_length",
                                   model.hidden_size / model.num_heads, 1, kMaxDimension);
  if (file.integer_or("llama.attention.value_length", model.head_dim, 1, kMaxDimension) !=
      model.head_dim) {
    fail(
        "{}: metadata key llama.attention.value_length differs from the key length {}; that is not "
        "supported",
        file.path().string(), model.head_dim);
  }
  model.rotary_dim = model.head_dim;
  model.max_position_embeddings = file.integer("llama.context_length", 1, kMaxDimension);
  model.norm_eps =
      shortest_decimal(file.number("llama.attention.layer_norm_rms_epsilon", 1e-12, 1));
  model.qkv_bias = file.find("blk.0.attn_q.bias") != nullptr;
  model.o_bias = file.find("blk.0.attn_output.bias") != nullptr;
  model.mlp_bias = file.find("blk.0.ffn_gate.bias") != nullptr;
  model.tie_word_embeddings = file.find("output.weight") == nullptr;
  refuse_other_kinds(file, model);
  model.rope = read_gguf_rope(file, model.max_position_embeddings);
  model::set_full_attention(model);
  return model;
}

std::optional<std::string> canonical_name(std::string_view hf_name) {
  // Old checkpoints carry the rotation's frequencies, which follow from the configuration.
  if (hf_name.ends_with(".rotary_emb.inv_freq")) return "";
  return std::string(hf_name);
}

struct NamePair {
  std::string_view gguf, canonical;
};
constexpr std::array<NamePair, 3> kOuterNames = {{
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm"},
    {"output", "lm_head"},
}};
constexpr std::array<NamePair, 9> kLayerNames = {{
    {"attn_norm", "input_layernorm"},
    {"ffn_norm", "post_attention_layernorm"},
    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"},
    {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
}};

// "blk.7.attn_q.weight" -> "model.layers.7.self_attn.q_proj.weight".
std::optional<std::string> canonical_gguf_name(std::string_view name) {
  const size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return std::nullopt;
  const std::string_view stem = name.substr(0, dot), kind = name.substr(dot);
  if (kind != ".weight" && kind != ".bias") return std::nullopt;
  for (const NamePair& pair : kOuterNames) {
    if (pair.gguf == stem) return fmt::format("{}{}", pair.canonical, kind);
  }
  if (!stem.starts_with("blk.")) return std::nullopt;
  const size_t end = stem.find('.', 4);
  if (end == std::string_view::npos) return std::nullopt;
  const std::string_view layer = stem.substr(4, end - 4);
  if (layer.empty() || layer.find_first_not_of("0123456789") != std::string_view::npos) {
    return std::nullopt;
  }
  for (const NamePair& pair : kLayerNames) {
    if (pair.gguf == stem.substr(end + 1)) {
      return fmt::format("model.layers.{}.{}{}", layer, pair.canonical, kind);
    }
  }
  return std::nullopt;
}

std::string hf_name(std::string_view canonical) { return std::string(canonical); }

bool gguf_permuted(const ModelConfig& config, std::string_view canonical, int64_t& heads) {
  if (canonical.find(".self_attn.q_proj.") != std::string_view::npos) {
    heads = config.num_heads;
    return true;
  }
  if (canonical.find(".self_attn.k_proj.") != std::string_view::npos) {
    heads = config.num_kv_heads;
    return true;
  }
  return false;
}

}  // namespace

const Family kLlamaFamily = {
    .model_type = "llama",
    .architecture = "LlamaForCausalLM",
    .gguf_architecture = "llama",
    .read_config = read_config,
    .write_config = write_config,
    .read_gguf_config = read_gguf_config,
    .canonical_name = canonical_name,
    .canonical_gguf_name = canonical_gguf_name,
    .hf_name = hf_name,
    .gguf_permuted = gguf_permuted,
};

}  // namespace longgen::formats
