// Writes a model as a Hugging Face directory that appears whole or not at all.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "longgen/formats/model_file.h"
#include "longgen/model/config.h"
#include "longgen/model/weights.h"

namespace longgen::formats {

// What to do when the folder exists and is not empty.
enum class ExistingOutput : uint8_t {
  kRefuse,        // Error that names --force
  kReplaceModel,  // the folder is exchanged for the new one; Error when it holds anything but a
                  // model
  kAddTo,  // other files stay (a run's folder); the old config.json goes first, the new comes
           // last, so a torn folder is never taken for a model
};

struct ModelWriteOptions {
  DType dtype = DType::kBF16;  // kF32 or kBF16
  ExistingOutput existing = ExistingOutput::kRefuse;
  int64_t max_shard_bytes = 5'000'000'000;
};

// Writes into a folder beside the target, fsyncs every file, and renames:
//     ModelWriter writer(directory, config, extras, options);
//     writer.write_weights(weights);
//     tokenizer.save(writer.staging());
//     writer.commit();
// Without commit() nothing is left behind.
class ModelWriter {
 public:
  // Throws Error when the target must not be written, the disk has too little room, or the
  // configuration cannot be expressed.
  ModelWriter(const std::filesystem::path& directory, const model::ModelConfig& config,
              const ModelExtras& extras, const ModelWriteOptions& options);
  ~ModelWriter();
  ModelWriter(const ModelWriter&) = delete;
  ModelWriter& operator=(const ModelWriter&) = delete;

  // The folder that other files of the model (the tokenizer's) are written to before commit().
  const std::filesystem::path& staging() const { return staging_; }

  // One tensor a parameter, in the order of param_specs(config) but with those together that the
  // family's files keep in one tensor: any floating dtype, contiguous, the parameter's shape, valid
  // until the next call. Throws Error naming a tensor that holds NaN or infinity.
  using TensorProvider = std::function<Tensor(const model::ParamSpec&)>;
  void write_weights(const TensorProvider& tensor_of);
  void write_weights(const model::ParameterSet& weights);

  // Throws Error when weights were not written.
  void commit();

 private:
  void check_target() const;
  void check_space() const;
  void write_config_files(const ModelExtras& extras) const;
  void replace_target() const;
  void add_to_target() const;

  std::filesystem::path target_, staging_;
  model::ModelConfig config_;
  ModelWriteOptions options_;
  bool weights_written_ = false, committed_ = false;
};

// Throws Error as ModelWriter's constructor would for this target, so that long work need not run
// before the refusal. A path that ends in "/" is fine.
void check_model_output(const std::filesystem::path& directory, ExistingOutput existing);

}  // namespace longgen::formats
