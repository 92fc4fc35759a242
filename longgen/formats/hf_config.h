// config.json to ModelConfig and back. Hybrid models have model_type "longgen": the base family's
// keys plus `layer_types` and an object `longgen` with the patterns; models whose layers are all
// full are plain models of their family.
//
// Models with a token-exact window of their own (sliding_window below max_position_embeddings, in
// layers that use it): up to that many tokens such attention and full attention are the same, so
// the model is read as one of so many positions (ModelConfig::native_window, what is there said
// about lifting it); asking for more is an Error with the reason. A window that no layer uses, or
// that reaches max_position_embeddings, does not matter. Families whose layers differ otherwise
// (Gemma, gpt-oss) are refused by name.
#pragma once

#include <optional>
#include <string>

#include "longgen/formats/family.h"
#include "longgen/formats/json.h"
#include "longgen/model/config.h"

namespace longgen::formats {

constexpr int64_t kLonggenFormatVersion = 1;

struct HfConfig {
  model::ModelConfig model;
  std::optional<DType> dtype;  // torch_dtype or dtype, when it is one that tensors have
  std::string extras;          // JSON object: harmless keys that ModelConfig does not hold
};

// `where` names the file in errors. Throws Error naming the field.
HfConfig read_hf_config(const Json& json, const std::string& where);

// The text of config.json. extras as from read_hf_config ("" for none).
std::string write_hf_config(const model::ModelConfig& model, DType dtype,
                            const std::string& extras = "");

}  // namespace longgen::formats
