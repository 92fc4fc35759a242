// The one door to a model on disk: a Hugging Face directory, a GGUF file, or a bare config.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "longgen/formats/gguf.h"
#include "longgen/model/config.h"
#include "longgen/model/weights.h"

namespace longgen::formats {

enum class ModelKind : uint8_t { kHuggingFace, kGguf, kConfigOnly };

// Token ids that generation needs; all within the vocabulary.
struct GenerationSettings {
  std::optional<int64_t> bos_id, pad_id;
  std::vector<int64_t> eos_ids;
};

// What a model carries beside configuration and weights, handed from a source to the models made of
// it.
struct ModelExtras {
  GenerationSettings generation;
  std::string generation_config;  // JSON object with the source's other generation keys, or ""
  std::string chat_template;      // "" when there is none
  std::string config_extras;      // JSON object with harmless keys of config.json, or ""
};

class ModelFile {
 public:
  // Reads and checks everything but the weights' values. Throws Error naming file and field, or
  // what is wrong with the path.
  static ModelFile open(const std::filesystem::path& path);
  ModelFile(ModelFile&&) noexcept;
  ModelFile& operator=(ModelFile&&) noexcept;
  ~ModelFile();

  ModelKind kind() const;
  const std::filesystem::path& path() const;
  // The Hugging Face directory, or the folder that the file lies in.
  std::filesystem::path directory() const;
  // Null unless kind() is kGguf.
  const GgufFile* gguf() const;

  const model::ModelConfig& config() const;
  const ModelExtras& extras() const;
  bool has_weights() const;
  // bf16 when every matrix is stored as bf16 (or, without weights, the config says so), else f32:
  // the smaller of the two that loses nothing.
  DType lossless_dtype() const;

  // For each parameter (model::param_specs) how it is stored where products can take it as it is
  // (model::ParameterSet), kPlain where it must be converted.
  std::vector<WeightScheme> weight_schemes() const;

  // Fills every tensor of the set (converted to its dtype, or as stored where the set keeps it so;
  // Llama's Q and K rows of GGUF files restored to Hugging Face's order). Throws Error that names
  // each missing, unknown or mis-shaped tensor before reading any, and the first that holds NaN or
  // infinity.
  void read_weights(const model::ParameterSet& weights) const;
  // The same in two steps, for models that need not be in memory whole: names and shapes, then one
  // parameter into a host tensor of its shape and any floating dtype.
  void check_weights() const;
  void read_weight(std::string_view name, const Tensor& destination) const;

 private:
  struct Impl;
  explicit ModelFile(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace longgen::formats
