// What GGUF files call a model: one row an architecture (general.architecture), as llama.cpp's
// converter writes them.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "longgen/formats/gguf.h"
#include "longgen/formats/stored_rows.h"
#include "longgen/model/config.h"

namespace longgen::formats {

struct GgufArchitecture {
  std::string_view name;     // general.architecture and the prefix of its keys
  std::string_view family;   // ModelConfig::family
  bool interleaved = false;  // rows of queries and keys are in llama.cpp's order for Llama

  // The configuration with all layers full; a token-exact window of the model's own limits its
  // positions (ModelConfig::native_window). Throws Error naming file and key.
  model::ModelConfig read_config(const GgufFile& file) const;
  // Where a parameter lies. Throws Error for a parameter that such files have no name for.
  StoredRows stored_rows(const model::ModelConfig& config, const model::ParamSpec& spec) const;
  // Whether a tensor says what the configuration already does (rope_freqs).
  bool carries_no_parameter(std::string_view tensor) const;
};

// Throws Error naming the architecture and those supported.
const GgufArchitecture& find_gguf_architecture(const GgufFile& file);

// The rotation's settings under `prefix` ("llama."). Llama 3's frequency factors (the tensor
// rope_freqs.weight) are turned back into the four numbers that they were made from; others are an
// Error.
model::RopeConfig read_gguf_rope(const GgufFile& file, const std::string& prefix,
                                 const model::ModelConfig& model);
// A number stored as f32 back to the short decimal that it came from: 9.99999975e-06 -> 1e-05.
double shortest_decimal(double value);

}  // namespace longgen::formats
