#include "longgen/cli/load_model.h"

#include <iostream>
#include <iterator>

#include "longgen/base/error.h"
#include "longgen/base/log.h"
#include "longgen/base/mapped_file.h"
#include "longgen/base/system.h"
#include "longgen/base/units.h"

namespace longgen::cli {

ModelLoader::ModelLoader(const std::string& path, const CommonOptions& common)
    : file_(formats::ModelFile::open(path)),
      config_(file_.config()),
      backend_(make_backend(common)) {
  require(file_.has_weights(), "{} has no weights; give a model folder or a GGUF file", path);
  tokenizer_ = tokenizer::Tokenizer::load(file_);
  dtype_ = dtype_or(common, backend_->preferred_dtype());
  debug("{}", backend_->description());
}

void ModelLoader::check_memory(int64_t other_bytes, const std::string& what) const {
  const int64_t weights = model::parameter_count(config_) * dtype_size(dtype_);
  const int64_t available = available_memory_bytes();
  debug("memory: weights {}, {} {}, available {}", format_bytes(weights), what,
        format_bytes(other_bytes), format_bytes(available));
  require(
      weights + other_bytes <= available,
      "this needs {} of weights and {} of {}, together {}, but only {} of memory are free; use a "
      "shorter context, fewer sequences, or --dtype bf16",
      format_bytes(weights), format_bytes(other_bytes), what, format_bytes(weights + other_bytes),
      format_bytes(available));
}

void ModelLoader::check_engine(const infer::EngineOptions& options) const {
  const infer::EnginePlan plan = infer::Engine::plan(config_, dtype_, *backend_, options);
  check_memory(plan.kv_peak + plan.workspace,
               fmt::format("KV cache ({}) and workspace ({})", format_bytes(plan.kv_peak),
                           format_bytes(plan.workspace)));
  if (options.max_tokens > config_.max_position_embeddings) {
    require(config_.position != model::PositionKind::kLearned,
            "{} tokens, but the model has learned positions for {} only", options.max_tokens,
            config_.max_position_embeddings);
    warn("warning: {} positions, but the model was made for {}; quality may suffer",
         options.max_tokens, config_.max_position_embeddings);
  }
}

LoadedModel ModelLoader::load() && {
  LoadedModel loaded;
  loaded.weights =
      std::make_unique<model::ParameterSet>("weights", config_, dtype_, backend_->memory());
  file_.read_weights(*loaded.weights);
  loaded.backend = std::move(backend_);
  loaded.config = config_;
  loaded.tokenizer = std::move(tokenizer_);
  return loaded;
}

std::string read_input(const std::string& path) {
  if (path != "-") return read_text_file(path);
  return std::string(std::istreambuf_iterator<char>(std::cin), {});
}

}  // namespace longgen::cli
