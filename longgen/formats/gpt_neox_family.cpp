// GPT-NeoX's row of the table: GPT-NeoX 20B, Pythia, and others with model_type "gpt_neox".
#include <array>

#include "longgen/formats/family.h"
#include "longgen/formats/hf_fields.h"
#include "longgen/formats/hf_rope.h"

namespace longgen::formats {
namespace {

using model::ModelConfig;

constexpr HfRopeKeys kRopeKeys = {.theta = "rotary_emb_base",
                                  .partial = {"rotary_pct", "partial_rotary_factor"},
                                  .partial_otherwise = 0.25};

ModelConfig read_config(const JsonObject& config) {
  ModelConfig model;
  model.family = "gpt_neox";
  read_dimensions(config, "intermediate_size", model);
  read_heads(config, model);
  if (model.num_kv_heads != model.num_heads) {
    config.fail_at("num_key_value_heads",
                   "other than num_attention_heads is not supported for "
                   "this family, whose projections are fused");
  }
  model.norm = NormKind::kLayer;
  model.norm_bias = true;
  model.norm_eps = read_norm_eps(config, "layer_norm_eps", 1e-5);
  model.qkv_bias = model.o_bias = config.boolean_or("attention_bias", true);
  model.mlp_bias = true;
  model.gated_mlp = false;
  model.activation = read_activation(config, "hidden_act", "gelu");
  model.parallel_residual = config.boolean_or("use_parallel_residual", true);
  const HfRope rope = read_hf_rope(config, model.max_position_embeddings, kRopeKeys);
  model.rope = rope.rope;
  model.rotary_dim = rotary_channels(model.head_dim, rope.partial_rotary_factor);
  model.tie_word_embeddings = config.boolean_or("tie_word_embeddings", false);
  model::set_full_attention(model);
  return model;
}

void write_config(const ModelConfig& model, OrderedJson& out) {
  write_dimensions(model, out);
  out["hidden_act"] = activation_name(model.activation);
  out["max_position_embeddings"] = model.max_position_embeddings;
  out["layer_norm_eps"] = model.norm_eps;
  out["use_parallel_residual"] = model.parallel_residual;
  out["attention_bias"] = model.qkv_bias;
  out["tie_word_embeddings"] = model.tie_word_embeddings;
  write_hf_rope(model.rope, out, kRopeKeys, partial_rotary_factor(model));
}

constexpr std::array<NamePair, 3> kOuterNames = {{
    {"model.embed_tokens", "gpt_neox.embed_in"},
    {"model.norm", "gpt_neox.final_layer_norm"},
    {"lm_head", "embed_out"},
}};
constexpr std::array<NamePair, 8> kLayerNames = {{
    {"input_layernorm", "input_layernorm"},
    {"post_attention_layernorm", "post_attention_layernorm"},
    {"self_attn.q_proj", "attention.query_key_value"},
    {"self_attn.k_proj", "attention.query_key_value"},
    {"self_attn.v_proj", "attention.query_key_value"},
    {"self_attn.o_proj", "attention.dense"},
    {"mlp.up_proj", "mlp.dense_h_to_4h"},
    {"mlp.down_proj", "mlp.dense_4h_to_h"},
}};
constexpr NameTable kNames = {"gpt_neox.layers.", kOuterNames, kLayerNames};

// query_key_value has the rows of q, k and v head by head: [heads, (q, k, v), head_dim].
StoredRows stored_rows(const ModelConfig& model, const model::ParamSpec& spec) {
  StoredRows rows = whole_tensor(stored_name(kNames, spec.name), spec);
  const std::string_view stem = parameter_stem(spec.name);
  constexpr std::array<std::string_view, 3> kParts = {"self_attn.q_proj", "self_attn.k_proj",
                                                      "self_attn.v_proj"};
  for (size_t part = 0; part < kParts.size(); ++part) {
    if (kParts[part] != stem) continue;
    rows.total = 3 * model.num_heads * model.head_dim;
    rows.first = static_cast<int64_t>(part) * model.head_dim;
    rows.run = model.head_dim;
    rows.step = 3 * model.head_dim;
  }
  return rows;
}

std::string standard_name(std::string_view stored) {
  // Old checkpoints carry masks and the rotation's frequencies.
  for (const std::string_view ending :
       {".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"}) {
    if (stored.ends_with(ending)) return "";
  }
  return stored == "lm_head.weight" ? "embed_out.weight" : std::string(stored);
}

}  // namespace

const Family kGptNeoxFamily = {
    .model_type = "gpt_neox",
    .architecture = "GPTNeoXForCausalLM",
    .read_config = read_config,
    .write_config = write_config,
    .stored_rows = stored_rows,
    .standard_name = standard_name,
};

}  // namespace longgen::formats
