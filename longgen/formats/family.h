// What files call a model: one row a family. The decoder's canonical names (model/weights.h) are
// those of Hugging Face's Llama.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "longgen/formats/gguf.h"
#include "longgen/formats/json.h"
#include "longgen/model/config.h"

namespace longgen::formats {

// Limits on numbers from files, before ModelConfig::validate() looks at how they fit together.
constexpr int64_t kMaxDimension = int64_t{1} << 31;
constexpr int64_t kMaxLayers = 4096;

struct Family {
  std::string_view model_type;         // config.json; also ModelConfig::family
  std::string_view architecture;       // config.json's architectures
  std::string_view gguf_architecture;  // general.architecture; "" when GGUF is not read

  // The configuration but for patterns, which are all full.
  model::ModelConfig (*read_config)(const JsonObject& config);
  // Adds the family's keys. Throws Error naming a switch that the family's files cannot express.
  void (*write_config)(const model::ModelConfig& config, OrderedJson& out);
  model::ModelConfig (*read_gguf_config)(const GgufFile& file);

  // The canonical name of a tensor in a Hugging Face or GGUF file; "" for a known tensor that
  // carries no parameter, none for an unknown one.
  std::optional<std::string> (*canonical_name)(std::string_view hf_name);
  std::optional<std::string> (*canonical_gguf_name)(std::string_view gguf_name);
  std::string (*hf_name)(std::string_view canonical_name);
  // Whether GGUF stores this (canonical) tensor's head rows interleaved; heads receives their
  // number.
  bool (*gguf_permuted)(const model::ModelConfig& config, std::string_view canonical_name,
                        int64_t& heads);
};

std::span<const Family> families();
// "llama, longgen": for errors.
std::string supported_model_types();
// Throws Error naming `where` and what is supported.
const Family& find_family(std::string_view model_type, const std::string& where);
const Family& find_gguf_family(const GgufFile& file);

extern const Family kLlamaFamily;

}  // namespace longgen::formats
