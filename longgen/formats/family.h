// What Hugging Face files call a model: one row a family. Parameters have the decoder's canonical
// names (model/weights.h).
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "longgen/formats/json.h"
#include "longgen/formats/stored_rows.h"
#include "longgen/model/config.h"

namespace longgen::formats {

// Limits on numbers from files, before ModelConfig::validate() looks at how they fit together.
constexpr int64_t kMaxDimension = int64_t{1} << 31;
constexpr int64_t kMaxLayers = 4096;

// How a family's config.json speaks of attention that sees only the newest tokens. Whatever the
// family, such a model is read as one of that many positions (ModelConfig::native_window).
enum class WindowKeys : uint8_t {
  kPlain,    // sliding_window, unless use_sliding_window is false
  kMistral,  // the same; a missing sliding_window is 4096, as Transformers has it
  kQwen,     // sliding_window when use_sliding_window is true, in the layers that layer_types calls
             // sliding or else from max_window_layers on
};

struct Family {
  std::string_view model_type;    // config.json; also ModelConfig::family
  std::string_view architecture;  // config.json's architectures
  WindowKeys window = WindowKeys::kPlain;

  // The configuration but for patterns, which are all full, and windows.
  model::ModelConfig (*read_config)(const JsonObject& config);
  // Adds the family's keys, so that read_config of them gives the same configuration where the
  // family's files can express it.
  void (*write_config)(const model::ModelConfig& config, OrderedJson& out);

  // Where a parameter lies. Parts of one stored tensor share its name and total.
  StoredRows (*stored_rows)(const model::ModelConfig& config, const model::ParamSpec& spec);
  // A stored name in the spelling of stored_rows; "" for a tensor that carries no parameter.
  std::string (*standard_name)(std::string_view stored);
};

std::span<const Family> families();
// "llama, mistral, ..., longgen": for errors.
std::string supported_model_types();
// Throws Error naming `where`, what is supported and, for some model types, why it is not.
const Family& find_family(std::string_view model_type, std::string_view where);

extern const Family kLlamaFamily, kMistralFamily, kQwen2Family, kQwen3Family;
extern const Family kPhi3Family, kGptNeoxFamily, kOptFamily;

}  // namespace longgen::formats
