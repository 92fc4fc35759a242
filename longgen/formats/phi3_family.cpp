// Phi-3's row of the table: Llama with fused projections and a rotation of a part of each head.
// The long-context variants scale the rotation by "longrope", which is refused: it changes all
// frequencies once a text passes its original length, and keys already in a cache cannot follow.
#include <array>

#include "longgen/formats/family.h"
#include "longgen/formats/hf_fields.h"
#include "longgen/formats/hf_rope.h"

namespace longgen::formats {
namespace {

using model::ModelConfig;

constexpr HfRopeKeys kRopeKeys = {.partial = {"partial_rotary_factor"}};

ModelConfig read_config(const JsonObject& config) {
  ModelConfig model;
  model.family = "phi3";
  read_dimensions(config, "intermediate_size", model);
  read_heads(config, model);
  model.norm_eps = read_norm_eps(config, "rms_norm_eps", 1e-5);
  model.activation = read_activation(config, "hidden_act", "silu");
  const HfRope rope = read_hf_rope(config, model.max_position_embeddings, kRopeKeys);
  if (rope.rope.kind != model::RopeKind::kDefault) {
    config.fail_at("rope_scaling", "of Phi-3 models is longrope, which is not supported");
  }
  model.rope = rope.rope;
  model.rotary_dim = rotary_channels(model.head_dim, rope.partial_rotary_factor);
  model.tie_word_embeddings = config.boolean_or("tie_word_embeddings", false);
  model::set_full_attention(model);
  return model;
}

void write_config(const ModelConfig& model, OrderedJson& out) {
  write_dimensions(model, out);
  out["num_key_value_heads"] = model.num_kv_heads;
  // Transformers uses head_dim where it is there, and some engines do not know it.
  if (model.head_dim * model.num_heads != model.hidden_size) out["head_dim"] = model.head_dim;
  out["hidden_act"] = activation_name(model.activation);
  out["max_position_embeddings"] = model.max_position_embeddings;
  out["original_max_position_embeddings"] = model.max_position_embeddings;
  out["rms_norm_eps"] = model.norm_eps;
  out["tie_word_embeddings"] = model.tie_word_embeddings;
  out["sliding_window"] = nullptr;
  write_hf_rope(model.rope, out, kRopeKeys, partial_rotary_factor(model));
}

// qkv_proj holds the rows of q, k and v one after the other, gate_up_proj those of gate and up.
StoredRows stored_rows(const ModelConfig& model, const model::ParamSpec& spec) {
  struct Fused {
    std::string_view stem, stored;
    int64_t total, first;
  };
  const int64_t q = model.num_heads * model.head_dim, kv = model.num_kv_heads * model.head_dim;
  const int64_t mlp = model.intermediate_size;
  const std::array<Fused, 5> parts = {{
      {"self_attn.q_proj", "qkv_proj", q + 2 * kv, 0},
      {"self_attn.k_proj", "qkv_proj", q + 2 * kv, q},
      {"self_attn.v_proj", "qkv_proj", q + 2 * kv, q + kv},
      {"mlp.gate_proj", "gate_up_proj", 2 * mlp, 0},
      {"mlp.up_proj", "gate_up_proj", 2 * mlp, mlp},
  }};
  for (const Fused& part : parts) {
    if (part.stem != parameter_stem(spec.name)) continue;
    std::string name = spec.name;
    const std::string own(part.stem.substr(part.stem.find('.') + 1));
    name.replace(name.find(own), own.size(), part.stored);
    return {.tensor = std::move(name), .total = part.total, .first = part.first};
  }
  return whole_tensor(spec.name, spec);
}

std::string standard_name(std::string_view stored) {
  return stored.ends_with(".rotary_emb.inv_freq") ? "" : std::string(stored);
}

}  // namespace

const Family kPhi3Family = {
    .model_type = "phi3",
    .architecture = "Phi3ForCausalLM",
    .read_config = read_config,
    .write_config = write_config,
    .stored_rows = stored_rows,
    .standard_name = standard_name,
};

}  // namespace longgen::formats
