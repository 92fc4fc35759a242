// OPT's row of the table (Galactica shares it). Refused: OPT-350M's norms after the branches and
// its narrower embedding.
#include <array>

#include "longgen/formats/family.h"
#include "longgen/formats/hf_fields.h"

namespace longgen::formats {
namespace {

using model::ModelConfig;

// Transformers fixes it in the code, and PyTorch's LayerNorm its epsilon.
constexpr int64_t kPositionOffset = 2;
constexpr double kNormEps = 1e-5;

void refuse_variants(const JsonObject& config, const ModelConfig& model) {
  if (!config.boolean_or("do_layer_norm_before", true)) {
    config.fail_at("do_layer_norm_before",
                   "false is not supported: norms after the branches (OPT-350M)");
  }
  if (config.boolean_or("_remove_final_layer_norm", false)) {
    config.fail_at("_remove_final_layer_norm", "true is not supported");
  }
  if (!config.boolean_or("layer_norm_elementwise_affine", true)) {
    config.fail_at("layer_norm_elementwise_affine", "false is not supported");
  }
  const int64_t width =
      config.integer_or("word_embed_proj_dim", model.hidden_size, 1, kMaxDimension);
  if (width != model.hidden_size) {
    config.fail_at("word_embed_proj_dim",
                   fmt::format("{} is not supported, only hidden_size {}: an embedding with a "
                               "projection (OPT-350M)",
                               width, model.hidden_size));
  }
  if (config.has("rope_scaling") || config.has("rope_theta") || config.has("rope_parameters")) {
    config.fail_at("rope_scaling", "or rope_theta: OPT has learned positions, no rotation");
  }
}

ModelConfig read_config(const JsonObject& config) {
  ModelConfig model;
  model.family = "opt";
  read_dimensions(config, "ffn_dim", model);
  read_heads(config, model);
  if (model.num_kv_heads != model.num_heads ||
      model.head_dim * model.num_heads != model.hidden_size) {
    config.fail_at("num_key_value_heads", "and head_dim are none of OPT's keys");
  }
  refuse_variants(config, model);
  model.norm = NormKind::kLayer;
  model.norm_bias = true;
  model.norm_eps = kNormEps;
  model.qkv_bias = model.o_bias = model.mlp_bias = config.boolean_or("enable_bias", true);
  model.gated_mlp = false;
  model.activation = read_activation(config, "activation_function", "relu");
  model.position = model::PositionKind::kLearned;
  model.learned_position_offset = kPositionOffset;
  model.tie_word_embeddings = config.boolean_or("tie_word_embeddings", true);
  model::set_full_attention(model);
  return model;
}

void write_config(const ModelConfig& model, OrderedJson& out) {
  out["vocab_size"] = model.vocab_size;
  out["hidden_size"] = model.hidden_size;
  out["word_embed_proj_dim"] = model.hidden_size;
  out["ffn_dim"] = model.intermediate_size;
  out["num_hidden_layers"] = model.num_layers;
  out["num_attention_heads"] = model.num_heads;
  out["activation_function"] = activation_name(model.activation);
  out["max_position_embeddings"] = model.max_position_embeddings;
  out["do_layer_norm_before"] = true;
  out["_remove_final_layer_norm"] = false;
  out["layer_norm_elementwise_affine"] = true;
  out["enable_bias"] = model.qkv_bias;
  out["tie_word_embeddings"] = model.tie_word_embeddings;
}

constexpr std::array<NamePair, 4> kOuterNames = {{
    {"model.embed_tokens", "model.decoder.embed_tokens"},
    {"model.embed_positions", "model.decoder.embed_positions"},
    {"model.norm", "model.decoder.final_layer_norm"},
    {"lm_head", "lm_head"},
}};
constexpr std::array<NamePair, 8> kLayerNames = {{
    {"input_layernorm", "self_attn_layer_norm"},
    {"post_attention_layernorm", "final_layer_norm"},
    {"self_attn.q_proj", "self_attn.q_proj"},
    {"self_attn.k_proj", "self_attn.k_proj"},
    {"self_attn.v_proj", "self_attn.v_proj"},
    {"self_attn.o_proj", "self_attn.out_proj"},
    {"mlp.up_proj", "fc1"},
    {"mlp.down_proj", "fc2"},
}};
constexpr NameTable kNames = {"model.decoder.layers.", kOuterNames, kLayerNames};

StoredRows stored_rows(const ModelConfig&, const model::ParamSpec& spec) {
  return whole_tensor(stored_name(kNames, spec.name), spec);
}

// The first checkpoints lack the "model." in front.
std::string standard_name(std::string_view stored) {
  return stored.starts_with("decoder.") ? "model." + std::string(stored) : std::string(stored);
}

}  // namespace

const Family kOptFamily = {
    .model_type = "opt",
    .architecture = "OPTForCausalLM",
    .read_config = read_config,
    .write_config = write_config,
    .stored_rows = stored_rows,
    .standard_name = standard_name,
};

}  // namespace longgen::formats
