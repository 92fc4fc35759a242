// Llama's row of the table and those of families that differ from it in a few switches and share
// its names: Llama 1 to 3, SmolLM2, TinyLlama; Mistral; Qwen2 and 2.5; Qwen3.
#include "longgen/formats/family.h"
#include "longgen/formats/hf_fields.h"
#include "longgen/formats/hf_rope.h"

namespace longgen::formats {
namespace {

using model::ModelConfig;

// head_dim_otherwise: see read_heads.
ModelConfig read_llama_like(const JsonObject& config, std::string_view family,
                            int64_t head_dim_otherwise = 0) {
  ModelConfig model;
  model.family = family;
  read_dimensions(config, "intermediate_size", model);
  read_heads(config, model, head_dim_otherwise);
  model.rotary_dim = model.head_dim;
  model.norm_eps = read_norm_eps(config, "rms_norm_eps", 1e-6);
  model.activation = read_activation(config, "hidden_act", "silu");
  model.rope = read_hf_rope(config, model.max_position_embeddings).rope;
  model.tie_word_embeddings = config.boolean_or("tie_word_embeddings", false);
  model::set_full_attention(model);
  return model;
}

void write_llama_like(const ModelConfig& model, OrderedJson& out) {
  write_dimensions(model, out);
  out["num_key_value_heads"] = model.num_kv_heads;
  out["head_dim"] = model.head_dim;
  out["hidden_act"] = activation_name(model.activation);
  out["max_position_embeddings"] = model.max_position_embeddings;
  out["rms_norm_eps"] = model.norm_eps;
  out["tie_word_embeddings"] = model.tie_word_embeddings;
  write_hf_rope(model.rope, out);
}

ModelConfig read_llama(const JsonObject& config) {
  ModelConfig model = read_llama_like(config, "llama");
  model.qkv_bias = model.o_bias = config.boolean_or("attention_bias", false);
  model.mlp_bias = config.boolean_or("mlp_bias", false);
  return model;
}

void write_llama(const ModelConfig& model, OrderedJson& out) {
  write_llama_like(model, out);
  out["attention_bias"] = model.qkv_bias;
  out["mlp_bias"] = model.mlp_bias;
}

// Absent, Transformers takes eight key/value heads; no published model leaves it to that.
ModelConfig read_mistral(const JsonObject& config) {
  if (!config.json().contains("num_key_value_heads"))
    config.fail_at("num_key_value_heads", "is missing");
  return read_llama_like(config, "mistral");
}

void write_mistral(const ModelConfig& model, OrderedJson& out) {
  write_llama_like(model, out);
  out["sliding_window"] = nullptr;
}

void write_no_qwen_window(const ModelConfig& model, OrderedJson& out) {
  out["use_sliding_window"] = false;
  out["sliding_window"] = nullptr;
  out["max_window_layers"] = model.num_layers;
}

ModelConfig read_qwen2(const JsonObject& config) {
  ModelConfig model = read_llama_like(config, "qwen2");
  model.qkv_bias = true;
  return model;
}

void write_qwen2(const ModelConfig& model, OrderedJson& out) {
  write_llama_like(model, out);
  write_no_qwen_window(model, out);
}

ModelConfig read_qwen3(const JsonObject& config) {
  ModelConfig model = read_llama_like(config, "qwen3", 128);
  model.qkv_bias = model.o_bias = config.boolean_or("attention_bias", false);
  model.qk_norm = true;
  return model;
}

void write_qwen3(const ModelConfig& model, OrderedJson& out) {
  write_llama_like(model, out);
  out["attention_bias"] = model.qkv_bias;
  write_no_qwen_window(model, out);
}

StoredRows stored_rows(const ModelConfig&, const model::ParamSpec& spec) {
  return whole_tensor(spec.name, spec);
}

std::string standard_name(std::string_view stored) {
  // Old checkpoints carry the rotation's frequencies, which follow from the configuration.
  if (stored.ends_with(".rotary_emb.inv_freq")) return "";
  return std::string(stored);
}

}  // namespace

const Family kLlamaFamily = {
    .model_type = "llama",
    .architecture = "LlamaForCausalLM",
    .read_config = read_llama,
    .write_config = write_llama,
    .stored_rows = stored_rows,
    .standard_name = standard_name,
};

const Family kMistralFamily = {
    .model_type = "mistral",
    .architecture = "MistralForCausalLM",
    .window = WindowKeys::kMistral,
    .read_config = read_mistral,
    .write_config = write_mistral,
    .stored_rows = stored_rows,
    .standard_name = standard_name,
};

const Family kQwen2Family = {
    .model_type = "qwen2",
    .architecture = "Qwen2ForCausalLM",
    .window = WindowKeys::kQwen,
    .read_config = read_qwen2,
    .write_config = write_qwen2,
    .stored_rows = stored_rows,
    .standard_name = standard_name,
};

const Family kQwen3Family = {
    .model_type = "qwen3",
    .architecture = "Qwen3ForCausalLM",
    .window = WindowKeys::kQwen,
    .read_config = read_qwen3,
    .write_config = write_qwen3,
    .stored_rows = stored_rows,
    .standard_name = standard_name,
};

}  // namespace longgen::formats
