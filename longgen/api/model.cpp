#include "include/longgen/model.h"

#include <utility>

#include "longgen/api/pattern.h"
#include "longgen/base/error.h"
#include "longgen/base/system.h"
#include "longgen/base/units.h"
#include "longgen/formats/model_file.h"
#include "longgen/infer/engine.h"
#include "longgen/pattern/hybrid_spec.h"
#include "longgen/tokenizer/tokenizer.h"

namespace longgen {
namespace {

DType chosen_dtype(const LoadOptions& options, const Backend& backend) {
  if (options.dtype.empty()) return backend.preferred_dtype();
  if (options.dtype == "f32") return DType::kF32;
  if (options.dtype == "bf16") return DType::kBF16;
  fail_usage("dtype {}: use f32 or bf16", options.dtype);
}

infer::EngineOptions engine_options(const LoadOptions& options, const model::ModelConfig& config) {
  infer::EngineOptions engine{.chunk = options.chunk, .max_batch = 1};
  engine.max_tokens = options.max_tokens > 0 ? options.max_tokens : config.max_position_embeddings;
  return engine;
}

// How each parameter is kept: as the file stores it, unless a dtype is asked for or the backend
// cannot compute with it. Empty: all plain.
std::vector<WeightScheme> kept_schemes(const formats::ModelFile& file, const LoadOptions& options,
                                       const Backend& backend) {
  if (!options.dtype.empty()) return {};
  std::vector<WeightScheme> schemes = file.weight_schemes();
  for (const WeightScheme scheme : schemes) {
    if (!backend.supports_scheme(scheme)) return {};
  }
  return schemes;
}

void refuse_unless_it_fits(int64_t weights, const infer::EnginePlan& plan) {
  const int64_t all = weights + plan.kv_peak + plan.workspace, free = available_memory_bytes();
  require(
      all <= free,
      "the model needs {} of weights, {} of KV cache and {} of workspace, but only {} of memory "
      "are free; lower max_tokens or chunk, or use bf16",
      format_bytes(weights), format_bytes(plan.kv_peak), format_bytes(plan.workspace),
      format_bytes(free));
}

Finish finish_of(infer::FinishReason reason) {
  switch (reason) {
    case infer::FinishReason::kEndOfText:
      return Finish::kEndOfText;
    case infer::FinishReason::kStopString:
      return Finish::kStopString;
    case infer::FinishReason::kLength:
      return Finish::kLength;
    case infer::FinishReason::kCancelled:
      break;
  }
  return Finish::kCancelled;
}

}  // namespace

struct Model::Impl {
  model::ModelConfig config;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<tokenizer::Tokenizer> tokenizer;
  std::unique_ptr<model::ParameterSet> weights;
  std::unique_ptr<infer::Engine> engine;
  int64_t max_tokens = 0;
};

Model::Model(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;
Model::~Model() = default;

Model Model::open(const std::string& path, const LoadOptions& options) {
  const auto file = formats::ModelFile::open(path);
  require(file.has_weights(), "{} has no weights; give a model folder or a GGUF file", path);
  auto impl = std::make_unique<Impl>();
  impl->config = file.config();
  if (!options.hybrid.empty()) {
    impl->config.patterns = HybridSpec::parse(options.hybrid)
                                .resolve(impl->config.num_layers, impl->config.num_kv_heads);
  }
  impl->backend = make_cpu_backend(options.threads);
  impl->tokenizer = tokenizer::Tokenizer::load(file);
  const DType dtype = chosen_dtype(options, *impl->backend);
  const infer::EngineOptions engine = engine_options(options, impl->config);
  impl->max_tokens = engine.max_tokens;
  const std::vector<WeightScheme> schemes = kept_schemes(file, options, *impl->backend);
  NoMemory nothing;
  refuse_unless_it_fits(
      model::ParameterSet("weights", impl->config, dtype, nothing, schemes).bytes(),
      infer::Engine::plan(impl->config, dtype, *impl->backend, engine));
  impl->weights = std::make_unique<model::ParameterSet>("weights", impl->config, dtype,
                                                        impl->backend->memory(), schemes);
  file.read_weights(*impl->weights);
  impl->engine =
      std::make_unique<infer::Engine>(impl->config, *impl->weights, *impl->backend, engine);
  return Model(std::move(impl));
}

ModelInfo Model::info() const {
  const model::ModelConfig& c = impl_->config;
  ModelInfo info{.family = c.family,
                 .backend = impl_->backend->description(),
                 .layers = c.num_layers,
                 .hidden_size = c.hidden_size,
                 .vocab_size = c.vocab_size,
                 .parameters = model::parameter_count(c),
                 .max_tokens = impl_->max_tokens,
                 .weight_bytes = impl_->weights->bytes(),
                 .patterns = {}};
  for (const AttentionPattern& pattern : c.patterns) {
    info.patterns.push_back(Pattern(std::make_shared<const Pattern::Impl>(Pattern::Impl{pattern})));
  }
  return info;
}

std::vector<int32_t> Model::tokenize(std::string_view text, bool special) const {
  return impl_->tokenizer->encode(text, {.parse_special = special});
}

std::string Model::detokenize(std::span<const int32_t> tokens) const {
  return impl_->tokenizer->decode(tokens);
}

Generation Model::generate(std::string_view prompt, const GenerateOptions& options,
                           const OnText& on_text) {
  return generate(impl_->tokenizer->encode(prompt, {.add_bos = impl_->tokenizer->adds_bos()}),
                  options, on_text);
}

Generation Model::generate(std::span<const int32_t> prompt, const GenerateOptions& options,
                           const OnText& on_text) {
  infer::Request request;
  request.prompt.assign(prompt.begin(), prompt.end());
  request.max_new_tokens = options.max_new_tokens;
  request.sampling = {.temperature = options.temperature,
                      .top_k = options.top_k,
                      .top_p = options.top_p,
                      .min_p = options.min_p,
                      .seed = options.seed};
  request.sampling.validate();
  request.stop = options.stop;
  request.ignore_end_of_text = options.ignore_end_of_text;
  bool cancelled = false;
  infer::EngineCallbacks callbacks;
  callbacks.on_text = [&](size_t, std::string_view text) {
    if (on_text && !on_text(text)) cancelled = true;
  };
  callbacks.cancelled = [&] { return cancelled; };
  auto completions = impl_->engine->generate({&request, 1}, *impl_->tokenizer, callbacks);
  const infer::EngineStats& stats = impl_->engine->stats();
  return {.text = std::move(completions[0].text),
          .tokens = std::move(completions[0].ids),
          .finish = finish_of(completions[0].reason),
          .prompt_tokens = static_cast<int64_t>(prompt.size()),
          .prefill_seconds = stats.prefill_seconds,
          .decode_seconds = stats.decode_seconds};
}

std::vector<float> Model::score(std::span<const int32_t> tokens) {
  require(tokens.size() >= 2, "{} tokens to score; at least 2 are needed", tokens.size());
  return impl_->engine->score(tokens);
}

const char* version() { return LONGGEN_VERSION; }

}  // namespace longgen
