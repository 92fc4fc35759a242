// What every command that runs a model does first: open it, check that it fits, load it.
#pragma once

#include <memory>
#include <string>

#include "longgen/backend/backend.h"
#include "longgen/cli/common.h"
#include "longgen/formats/model_file.h"
#include "longgen/infer/engine.h"
#include "longgen/model/weights.h"
#include "longgen/tokenizer/tokenizer.h"

namespace longgen::cli {

struct LoadedModel {
  std::unique_ptr<Backend> backend;
  model::ModelConfig config;
  std::unique_ptr<model::ParameterSet> weights;
  std::unique_ptr<tokenizer::Tokenizer> tokenizer;
};

// What becomes of weights that a file stores quantised when --dtype does not say: whoever runs a
// model wants it as it is, whoever measures or trains one wants its numbers.
enum class WeightForm : uint8_t { kAsStored, kDequantized };

// Opens the model without its weights, so that a command can still refuse.
class ModelLoader {
 public:
  ModelLoader(const std::string& path, const CommonOptions& common,
              WeightForm form = WeightForm::kAsStored);

  const model::ModelConfig& config() const { return config_; }
  const tokenizer::Tokenizer& tokenizer() const { return *tokenizer_; }
  // Of activations, and of weights that are not quantised.
  DType dtype() const { return dtype_; }
  Backend& backend() const { return *backend_; }

  // Throws Error with the numbers when weights, `what` (bytes of the rest) do not fit the memory
  // that is free. Says what will be used at verbosity 1.
  void check_memory(int64_t other_bytes, const std::string& what) const;
  // As check_memory for an engine, and a warning when positions go beyond what the model was made
  // for.
  void check_engine(const infer::EngineOptions& options) const;

  LoadedModel load() &&;

 private:
  void choose_weights(const CommonOptions& common, WeightForm form);
  int64_t weight_bytes() const;

  formats::ModelFile file_;
  model::ModelConfig config_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<tokenizer::Tokenizer> tokenizer_;
  DType dtype_;
  std::vector<WeightScheme> schemes_;  // one a parameter; empty: all plain
};

// Prompt tokens a pass where no option says: enough to keep the backend busy.
int64_t default_chunk(Backend& backend);
// Rows of a text that are scored at once: as many as that, with logits of at most 1 GB on a GPU.
int64_t default_score_rows(Backend& backend, const model::ModelConfig& config);
// "memory" or "the GPU's memory".
std::string_view memory_name(Backend& backend);

// --prompt texts and --file contents, in that order; "-" reads stdin.
std::string read_input(const std::string& path);

}  // namespace longgen::cli
