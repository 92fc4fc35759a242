#include "longgen/cli/load_model.h"

#include "longgen/backend/quantized.h"
#include "longgen/base/checked.h"
#include "longgen/base/error.h"
#include "longgen/base/log.h"
#include "longgen/base/system.h"
#include "longgen/base/text_input.h"
#include "longgen/base/units.h"

namespace longgen::cli {

namespace {

// Where the backend's memory is not the host's, one parameter at a time goes through the latter.
void read_weights(const formats::ModelFile& file, const model::ParameterSet& weights,
                  Backend& backend) {
  if (backend.memory().device() == Device::kHost) return file.read_weights(weights);
  file.check_weights();
  HostMemory memory;
  for (size_t i = 0; i < weights.specs().size(); ++i) {
    const model::ParamSpec& spec = weights.specs()[i];
    const DType dtype = weights.tensors()[i].dtype();
    Arena staging("weights on their way", memory,
                  round_up<int64_t>(spec.numel() * dtype_size(dtype), 64));
    const Tensor host = staging.allocate(spec.name, dtype, spec.shape);
    file.read_weight(spec.name, host);
    backend.copy(weights.tensors()[i], host);
  }
}

}  // namespace

int64_t default_chunk(Backend& backend) {
  return backend.memory().device() == Device::kHost ? 4096 : 8192;
}

int64_t default_score_rows(Backend& backend, const model::ModelConfig& config) {
  if (backend.memory().device() == Device::kHost) return infer::EngineOptions().score_rows;
  constexpr int64_t kMost = 4096, kLogitBytes = int64_t{1} << 30;
  return std::clamp<int64_t>(kLogitBytes / (4 * config.vocab_size), 1, kMost);
}

std::string_view memory_name(Backend& backend) {
  return backend.memory().device() == Device::kHost ? "memory" : "the GPU's memory";
}

ModelLoader::ModelLoader(const std::string& path, const CommonOptions& common, WeightForm form)
    : file_(formats::ModelFile::open(path)),
      config_(file_.config()),
      backend_(make_backend(common)) {
  require(file_.has_weights(), "{} has no weights; give a model folder or a GGUF file", path);
  tokenizer_ = tokenizer::Tokenizer::load(file_);
  choose_weights(common, form);
  debug("{}", backend_->description());
}

void ModelLoader::choose_weights(const CommonOptions& common, WeightForm form) {
  const bool asked = common.dtype == kQuantizedDtype;
  dtype_ = asked ? backend_->preferred_dtype() : dtype_or(common, backend_->preferred_dtype());
  if (!asked && (form == WeightForm::kDequantized || !common.dtype.empty())) return;
  std::vector<WeightScheme> schemes = file_.weight_schemes();
  bool quantized = false;
  for (const WeightScheme scheme : schemes) {
    quantized = quantized || scheme != WeightScheme::kPlain;
    if (backend_->supports_scheme(scheme)) continue;
    require(!asked, "{} cannot compute with {} weights; use --dtype f32 or bf16",
            backend_->description(), quantized::scheme_name(scheme));
    info("the weights are dequantised to {}: {} cannot compute with {}", dtype_name(dtype_),
         backend_->description(), quantized::scheme_name(scheme));
    return;
  }
  if (!quantized && asked) {
    fail_usage("--dtype {}: the weights of {} are not stored so; use f32 or bf16", common.dtype,
               file_.path().string());
  }
  if (!quantized) return;
  schemes_ = std::move(schemes);
  NoMemory nothing;
  info("the weights stay quantised ({}); --dtype f32 or bf16 dequantises them",
       model::ParameterSet("weights", config_, dtype_, nothing, schemes_).description());
}

int64_t ModelLoader::weight_bytes() const {
  NoMemory nothing;
  return model::ParameterSet("weights", config_, dtype_, nothing, schemes_).bytes();
}

void ModelLoader::check_memory(int64_t other_bytes, const std::string& what) const {
  const int64_t weights = weight_bytes();
  const int64_t available = backend_->memory().available_bytes();
  debug("memory: weights {}, {} {}, available {}", format_bytes(weights), what,
        format_bytes(other_bytes), format_bytes(available));
  require(weights + other_bytes <= available,
          "this needs {} of weights and {} of {}, together {}, but only {} of {} are free; use a "
          "shorter context, fewer sequences, or --dtype bf16",
          format_bytes(weights), format_bytes(other_bytes), what,
          format_bytes(weights + other_bytes), format_bytes(available), memory_name(*backend_));
}

void ModelLoader::check_engine(const infer::EngineOptions& options) const {
  const infer::EnginePlan plan = infer::Engine::plan(config_, dtype_, *backend_, options);
  check_memory(plan.kv_peak + plan.workspace,
               fmt::format("KV cache ({}) and workspace ({})", format_bytes(plan.kv_peak),
                           format_bytes(plan.workspace)));
  model::check_native_window(config_, options.max_tokens);
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
  loaded.weights = std::make_unique<model::ParameterSet>("weights", config_, dtype_,
                                                         backend_->memory(), schemes_);
  read_weights(file_, *loaded.weights, *backend_);
  backend_->synchronize();
  loaded.backend = std::move(backend_);
  loaded.config = config_;
  loaded.tokenizer = std::move(tokenizer_);
  return loaded;
}

std::string read_input(const std::string& path) { return TextInput(path).rest(); }

}  // namespace longgen::cli
