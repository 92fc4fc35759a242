// Fields of config.json that several families share. All throw Error naming file and field.
#pragma once

#include <string_view>

#include "longgen/formats/json.h"
#include "longgen/model/config.h"

namespace longgen::formats {

// vocab_size, hidden_size, the MLP's width under `mlp_key`, num_hidden_layers, num_attention_heads,
// max_position_embeddings.
void read_dimensions(const JsonObject& config, std::string_view mlp_key, model::ModelConfig& model);
// Writes them but for max_position_embeddings, whose place differs.
void write_dimensions(const model::ModelConfig& model, OrderedJson& out);
// num_key_value_heads (as many as heads when absent or null) and head_dim (`otherwise` when absent;
// hidden_size / num_attention_heads when that is 0 or the key null).
void read_heads(const JsonObject& config, model::ModelConfig& model, int64_t otherwise = 0);
// Transformers takes a null literally and stops, so it is an Error here too.
double read_norm_eps(const JsonObject& config, std::string_view key, double otherwise);
Activation read_activation(const JsonObject& config, std::string_view key,
                           std::string_view otherwise);
std::string_view activation_name(Activation activation);

}  // namespace longgen::formats
