#include "longgen/formats/gguf_architecture.h"

#include <array>

#include "longgen/base/error.h"
#include "longgen/formats/family.h"

namespace longgen::formats {
namespace {

using model::ModelConfig;

// "gptneox" is the name of model_type "gpt_neox"; Mistral's files say "llama".
constexpr std::array<GgufArchitecture, 5> kArchitectures = {{
    {.name = "llama", .family = "llama", .interleaved = true},
    {.name = "qwen2", .family = "qwen2"},
    {.name = "qwen3", .family = "qwen3"},
    {.name = "phi3", .family = "phi3"},
    {.name = "gptneox", .family = "gpt_neox"},
}};

// The keys of one architecture.
class Keys {
 public:
  Keys(const GgufFile& file, std::string_view name)
      : file_(file), prefix_(std::string(name) + ".") {}

  std::string name(std::string_view key) const { return prefix_ + std::string(key); }
  bool has(std::string_view key) const { return file_.has(name(key)); }
  int64_t integer(std::string_view key, int64_t max = kMaxDimension) const {
    return file_.integer(name(key), 1, max);
  }
  int64_t integer_or(std::string_view key, int64_t otherwise, int64_t min, int64_t max) const {
    return file_.integer_or(name(key), otherwise, min, max);
  }
  double number(std::string_view key) const {
    return shortest_decimal(file_.number(name(key), 1e-12, 1));
  }
  bool boolean_or(std::string_view key, bool otherwise) const {
    return file_.boolean_or(name(key), otherwise);
  }
  [[noreturn]] void fail_at(std::string_view key, std::string_view problem) const {
    fail("{}: metadata key {} {}", file_.path().string(), name(key), problem);
  }

 private:
  const GgufFile& file_;
  std::string prefix_;
};

int64_t vocab_size(const GgufFile& file, const Keys& keys) {
  const GgufTensor* embedding = file.find("token_embd.weight");
  if (embedding != nullptr && embedding->shape.size() == 2) return embedding->shape[0];
  return keys.integer("vocab_size");
}

void read_dimensions(const GgufFile& file, const Keys& keys, ModelConfig& model) {
  model.vocab_size = vocab_size(file, keys);
  model.hidden_size = keys.integer("embedding_length");
  model.intermediate_size = keys.integer("feed_forward_length");
  model.num_layers = keys.integer("block_count", kMaxLayers);
  model.num_heads = keys.integer("attention.head_count");
  model.num_kv_heads =
      keys.integer_or("attention.head_count_kv", model.num_heads, 1, model.num_heads);
  model.max_position_embeddings = keys.integer("context_length");
  if (model.num_heads % model.num_kv_heads != 0 ||
      (!keys.has("attention.key_length") && model.hidden_size % model.num_heads != 0)) {
    keys.fail_at("attention.head_count",
                 fmt::format("{}, head_count_kv {} and embedding_length {} do not fit together",
                             model.num_heads, model.num_kv_heads, model.hidden_size));
  }
  model.head_dim = keys.integer_or("attention.key_length", model.hidden_size / model.num_heads, 1,
                                   kMaxDimension);
  const int64_t value_length =
      keys.integer_or("attention.value_length", model.head_dim, 1, kMaxDimension);
  if (value_length != model.head_dim) {
    keys.fail_at("attention.value_length",
                 fmt::format("is {}, unlike the key length {}; that is not supported", value_length,
                             model.head_dim));
  }
}

void read_switches(const GgufFile& file, const Keys& keys, ModelConfig& model) {
  const auto has = [&](const char* tensor) { return file.find(tensor) != nullptr; };
  if (model.family == "gpt_neox") {
    model.norm = NormKind::kLayer;
    model.norm_eps = keys.number("attention.layer_norm_epsilon");
    model.norm_bias = model.mlp_bias = true;
    model.gated_mlp = false;
    model.activation = Activation::kGelu;
    model.parallel_residual = keys.boolean_or("use_parallel_residual", true);
    model.qkv_bias = has("blk.0.attn_qkv.bias");
  } else {
    model.norm_eps = keys.number("attention.layer_norm_rms_epsilon");
    model.qkv_bias = has("blk.0.attn_q.bias");
    model.mlp_bias = has("blk.0.ffn_gate.bias");
  }
  model.o_bias = has("blk.0.attn_output.bias");
  model.qk_norm = model.family == "qwen3";
  model.tie_word_embeddings = !has("output.weight");
}

// Phi-3's 4K models see 2,047 tokens, also in files from before the key was written.
int64_t assumed_window(const ModelConfig& model) {
  return model.family == "phi3" && model.max_position_embeddings == 4096 ? 2047 : 0;
}

// What shares the architecture's name but is something else.
void refuse_other_kinds(const Keys& keys) {
  if (keys.integer_or("expert_count", 0, 0, kMaxDimension) > 0) {
    keys.fail_at("expert_count", "is set: mixtures of experts are not supported");
  }
}

// A partial rotation belongs to some families.
void read_rotation(const GgufFile& file, const Keys& keys, ModelConfig& model) {
  model.rotary_dim = keys.integer_or("rope.dimension_count", model.head_dim, 1, kMaxDimension);
  if (model.rotary_dim > model.head_dim || (model.rotary_dim != model.head_dim &&
                                            model.family != "phi3" && model.family != "gpt_neox")) {
    keys.fail_at("rope.dimension_count",
                 fmt::format("is {}, but heads have {} channels; a partial rotation is not "
                             "supported for this family",
                             model.rotary_dim, model.head_dim));
  }
  model.rope = read_gguf_rope(file, keys.name(""), model);
}

constexpr std::array<NamePair, 3> kOuterNames = {{
    {"model.embed_tokens", "token_embd"},
    {"model.norm", "output_norm"},
    {"lm_head", "output"},
}};
constexpr std::array<NamePair, 11> kLayerNames = {{
    {"input_layernorm", "attn_norm"},
    {"post_attention_layernorm", "ffn_norm"},
    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"},
    {"self_attn.q_norm", "attn_q_norm"},
    {"self_attn.k_norm", "attn_k_norm"},
    {"mlp.gate_proj", "ffn_gate"},
    {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
}};
constexpr NameTable kNames = {"blk.", kOuterNames, kLayerNames};

// attn_qkv has the rows of q, k and v one after the other (for GPT-NeoX the converter takes the
// heads apart), and Phi-3's ffn_up those of gate and up.
StoredRows fused_rows(const ModelConfig& config, const model::ParamSpec& spec) {
  StoredRows rows = whole_tensor(stored_name(kNames, spec.name), spec);
  const int64_t q = config.num_heads * config.head_dim, kv = config.num_kv_heads * config.head_dim;
  const std::string_view stem = parameter_stem(spec.name);
  const auto part_of = [&](std::string_view own, std::string_view whole, int64_t total,
                           int64_t first) {
    rows.tensor.replace(rows.tensor.find(own), own.size(), whole);
    rows.total = total;
    rows.first = first;
  };
  if (stem == "self_attn.q_proj") part_of("attn_q", "attn_qkv", q + 2 * kv, 0);
  if (stem == "self_attn.k_proj") part_of("attn_k", "attn_qkv", q + 2 * kv, q);
  if (stem == "self_attn.v_proj") part_of("attn_v", "attn_qkv", q + 2 * kv, q + kv);
  if (!config.gated_mlp) return rows;
  const int64_t mlp = config.intermediate_size;
  if (stem == "mlp.gate_proj") part_of("ffn_gate", "ffn_up", 2 * mlp, 0);
  if (stem == "mlp.up_proj") part_of("ffn_up", "ffn_up", 2 * mlp, mlp);
  return rows;
}

}  // namespace

ModelConfig GgufArchitecture::read_config(const GgufFile& file) const {
  const Keys keys(file, name);
  ModelConfig model;
  model.family = family;
  refuse_other_kinds(keys);
  read_dimensions(file, keys, model);
  read_switches(file, keys, model);
  read_rotation(file, keys, model);
  const int64_t window =
      keys.integer_or("attention.sliding_window", assumed_window(model), 0, kMaxDimension);
  if (window > 0 && window < model.max_position_embeddings) {
    model.native_window = model.max_position_embeddings = window;
  }
  model::set_full_attention(model);
  return model;
}

StoredRows GgufArchitecture::stored_rows(const ModelConfig& config,
                                         const model::ParamSpec& spec) const {
  if (family == "phi3" || family == "gpt_neox") return fused_rows(config, spec);
  StoredRows rows = whole_tensor(stored_name(kNames, spec.name), spec);
  const std::string_view stem = parameter_stem(spec.name);
  if (interleaved && (stem == "self_attn.q_proj" || stem == "self_attn.k_proj")) {
    rows.interleaved = config.head_dim;
  }
  return rows;
}

bool GgufArchitecture::carries_no_parameter(std::string_view tensor) const {
  return tensor == "rope_freqs.weight";
}

const GgufArchitecture& find_gguf_architecture(const GgufFile& file) {
  const std::string& architecture = file.string("general.architecture");
  std::string supported;
  for (const GgufArchitecture& known : kArchitectures) {
    if (known.name == architecture) return known;
    supported += fmt::format("{}{}", supported.empty() ? "" : ", ", known.name);
  }
  fail("{}: general.architecture \"{}\" is not supported; supported are {}", file.path().string(),
       architecture, supported);
}

}  // namespace longgen::formats
