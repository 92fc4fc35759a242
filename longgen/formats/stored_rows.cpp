#include "longgen/formats/stored_rows.h"

#include "longgen/base/error.h"

namespace longgen::formats {
namespace {

constexpr std::string_view kLayers = "model.layers.";

// "model.layers.7.mlp.up_proj.bias" in its parts: 7, mlp.up_proj, .bias. No layer: "".
struct NameParts {
  std::string_view layer, stem, kind;
};

NameParts split(std::string_view canonical) {
  NameParts parts{.stem = canonical};
  const size_t dot = parts.stem.rfind('.');
  require(dot != std::string_view::npos, "parameter {} has no kind", canonical);
  parts.kind = parts.stem.substr(dot);
  parts.stem = parts.stem.substr(0, dot);
  if (!parts.stem.starts_with(kLayers)) return parts;
  const size_t end = parts.stem.find('.', kLayers.size());
  require(end != std::string_view::npos, "parameter {} names no part of its layer", canonical);
  parts.layer = parts.stem.substr(kLayers.size(), end - kLayers.size());
  parts.stem = parts.stem.substr(end + 1);
  return parts;
}

}  // namespace

StoredRows whole_tensor(std::string name, const model::ParamSpec& spec) {
  return {.tensor = std::move(name), .total = spec.shape[0]};
}

std::string stored_name(const NameTable& table, std::string_view canonical) {
  const NameParts parts = split(canonical);
  for (const NamePair& pair : parts.layer.empty() ? table.outer : table.layer) {
    if (pair.canonical != parts.stem) continue;
    if (parts.layer.empty()) return fmt::format("{}{}", pair.stored, parts.kind);
    return fmt::format("{}{}.{}{}", table.layer_prefix, parts.layer, pair.stored, parts.kind);
  }
  fail("files of this kind have no name for parameter {}", canonical);
}

std::string_view parameter_stem(std::string_view canonical) { return split(canonical).stem; }

}  // namespace longgen::formats
