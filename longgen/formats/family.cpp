#include "longgen/formats/family.h"

#include <array>

#include "longgen/base/error.h"

namespace longgen::formats {

std::span<const Family> families() {
  static const std::array<Family, 1> table = {kLlamaFamily};
  return table;
}

std::string supported_model_types() {
  std::string text;
  for (const Family& family : families()) text += fmt::format("{}, ", family.model_type);
  return text + "longgen";
}

const Family& find_family(std::string_view model_type, const std::string& where) {
  for (const Family& family : families()) {
    if (family.model_type == model_type) return family;
  }
  fail("{}: model_type \"{}\" is not supported; supported are {}", where, model_type,
       supported_model_types());
}

const Family& find_gguf_family(const GgufFile& file) {
  const std::string& architecture = file.string("general.architecture");
  for (const Family& family : families()) {
    if (!architecture.empty() && family.gguf_architecture == architecture) return family;
  }
  fail("{}: general.architecture \"{}\" is not supported; supported are {}", file.path().string(),
       architecture, supported_model_types());
}

}  // namespace longgen::formats
