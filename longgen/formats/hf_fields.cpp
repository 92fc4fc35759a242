#include "longgen/formats/hf_fields.h"

#include <array>

#include "longgen/base/error.h"
#include "longgen/formats/family.h"

namespace longgen::formats {
namespace {

using model::ModelConfig;

// The activations that a config may name; the first of a kind is the one written.
struct ActivationName {
  std::string_view name;
  Activation activation;
};
constexpr std::array<ActivationName, 7> kActivations = {{
    {"silu", Activation::kSilu},
    {"swish", Activation::kSilu},
    {"gelu", Activation::kGelu},
    {"gelu_pytorch_tanh", Activation::kGeluTanh},
    {"gelu_new", Activation::kGeluTanh},
    {"gelu_fast", Activation::kGeluTanh},
    {"relu", Activation::kRelu},
}};

}  // namespace

void read_dimensions(const JsonObject& config, std::string_view mlp_key, ModelConfig& model) {
  model.vocab_size = config.integer("vocab_size", 1, kMaxDimension);
  model.hidden_size = config.integer("hidden_size", 1, kMaxDimension);
  model.intermediate_size = config.integer(mlp_key, 1, kMaxDimension);
  model.num_layers = config.integer("num_hidden_layers", 1, kMaxLayers);
  model.num_heads = config.integer("num_attention_heads", 1, kMaxDimension);
  model.max_position_embeddings = config.integer("max_position_embeddings", 1, kMaxDimension);
}

void write_dimensions(const ModelConfig& model, OrderedJson& out) {
  out["vocab_size"] = model.vocab_size;
  out["hidden_size"] = model.hidden_size;
  out["intermediate_size"] = model.intermediate_size;
  out["num_hidden_layers"] = model.num_layers;
  out["num_attention_heads"] = model.num_heads;
}

void read_heads(const JsonObject& config, ModelConfig& model, int64_t otherwise) {
  model.num_kv_heads =
      config.integer_or("num_key_value_heads", model.num_heads, 1, model.num_heads);
  if (model.num_heads % model.num_kv_heads != 0) {
    config.fail_at("num_key_value_heads", fmt::format("{} does not divide num_attention_heads {}",
                                                      model.num_kv_heads, model.num_heads));
  }
  if (config.has("head_dim")) {
    model.head_dim = config.integer("head_dim", 1, kMaxDimension);
  } else if (otherwise > 0 && !config.json().contains("head_dim")) {
    model.head_dim = otherwise;
  } else if (model.hidden_size % model.num_heads == 0) {
    model.head_dim = model.hidden_size / model.num_heads;
  } else {
    config.fail_at("hidden_size", fmt::format("{} is no multiple of num_attention_heads {}, and "
                                              "there is no head_dim",
                                              model.hidden_size, model.num_heads));
  }
}

double read_norm_eps(const JsonObject& config, std::string_view key, double otherwise) {
  if (config.json().contains(key)) return config.number(key, 1e-12, 1);
  return otherwise;
}

Activation read_activation(const JsonObject& config, std::string_view key,
                           std::string_view otherwise) {
  const std::string name = config.string_or(key, std::string(otherwise));
  for (const ActivationName& known : kActivations) {
    if (known.name == name) return known.activation;
  }
  config.fail_at(key, fmt::format("\"{}\" is not supported", name));
}

std::string_view activation_name(Activation activation) {
  for (const ActivationName& known : kActivations) {
    if (known.activation == activation) return known.name;
  }
  fail("an activation has no name in config.json");
}

}  // namespace longgen::formats
