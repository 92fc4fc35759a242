#include "tests/cuda/tiny_models.h"

#include <algorithm>
#include <numeric>

#include "longgen/base/error.h"
#include "longgen/base/rng.h"
#include "longgen/infer/kv_cache.h"
#include "longgen/model/buffers.h"
#include "longgen/model/decoder.h"

namespace longgen::testing {
namespace {

AttentionPattern window(int64_t local, int64_t sink, int64_t stride = 0,
                        std::vector<int64_t> offsets = {0}) {
  return {.block_size = 16,
          .sink_blocks = sink,
          .local_blocks = local,
          .stride = stride,
          .offsets = std::move(offsets)};
}

std::unique_ptr<model::ParameterSet> draw(const model::ModelConfig& config, DType dtype,
                                          Backend& backend, DType rounded) {
  HostMemory memory;
  model::ParameterSet wide("weights", config, DType::kF32, memory);
  model::initialize(config, 11, wide);
  const auto host = make_reference_backend();
  for (size_t i = 0; i < wide.specs().size(); ++i) {
    const Tensor& x = wide.tensors()[i];
    Rng rng(12, i);
    // Matrices large enough for logits of size 1 and attention that prefers some keys; norms and
    // biases away from 1 and 0.
    for (int64_t j = 0; j < x.numel(); ++j) {
      float& value = x.data<float>()[j];
      value = x.rank() > 1 ? 4 * value : value + 0.2F * static_cast<float>(rng.normal());
    }
  }
  model::ParameterSet narrow("weights", config, rounded, memory);
  model::copy_parameters(*host, narrow, wide);
  model::copy_parameters(*host, wide, narrow);
  auto weights = std::make_unique<model::ParameterSet>("weights", config, dtype, backend.memory());
  model::copy_parameters(backend, *weights, wide);
  return weights;
}

}  // namespace

std::vector<std::string> tiny_models() { return {"llama", "strided", "qwen3", "neox", "opt"}; }

model::ModelConfig tiny_config(const std::string& name) {
  model::ModelConfig c;
  c.vocab_size = 261;
  c.hidden_size = 128;
  c.intermediate_size = 192;
  c.num_layers = 4;
  c.num_heads = 4;
  c.num_kv_heads = 2;
  c.head_dim = c.rotary_dim = 64;
  c.max_position_embeddings = 256;
  c.patterns = {window(3, 1), AttentionPattern::full(16), AttentionPattern::full(16), window(2, 1)};
  if (name == "strided") {
    c.patterns[0] = c.patterns[3] = window(2, 1, 4, {0, 2});
  } else if (name == "qwen3") {
    c.qk_norm = true;
    c.num_kv_heads = 1;
  } else if (name == "neox") {
    c.norm = NormKind::kLayer;
    c.norm_bias = c.qkv_bias = c.o_bias = c.mlp_bias = c.parallel_residual = true;
    c.gated_mlp = false;
    c.activation = Activation::kGelu;
    c.rotary_dim = 16;
    c.num_kv_heads = 4;
  } else if (name == "opt") {
    c.norm = NormKind::kLayer;
    c.norm_bias = c.qkv_bias = c.o_bias = c.mlp_bias = true;
    c.gated_mlp = false;
    c.activation = Activation::kRelu;
    c.position = model::PositionKind::kLearned;
    c.learned_position_offset = 2;
    c.tie_word_embeddings = true;
    c.num_kv_heads = 4;
  } else if (name == "windows") {
    c.max_position_embeddings = 1024;
    c.patterns.assign(4, {.block_size = 64, .sink_blocks = 1, .local_blocks = 2});
    c.patterns[0] = AttentionPattern::full(64);
  } else {
    require(name == "llama", "no tiny model {}", name);
  }
  c.validate();
  return c;
}

TinyModel::TinyModel(const std::string& name, DType dtype, Backend& backend, DType rounded)
    : config(tiny_config(name)), weights(draw(config, dtype, backend, rounded)) {}

std::vector<int32_t> random_tokens(int64_t count, int64_t vocab_size, uint64_t seed) {
  Rng rng(seed, 0);
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t& id : ids) {
    id = static_cast<int32_t>(rng.below(static_cast<uint64_t>(vocab_size)));
  }
  return ids;
}

std::vector<double> whole_logits(const TinyModel& model, Backend& backend,
                                 const std::vector<int32_t>& ids) {
  const auto n = static_cast<int64_t>(ids.size());
  const int64_t vocab = model.config.vocab_size;
  model::TrainingPass pass(model.config, *model.weights, backend, n, {}, backend.memory());
  const std::vector<int32_t> labels(ids.size(), -1);
  const auto run = [&](auto values) {
    pass.logits({ids, labels, {}}, Tensor::of(std::span(values)).reshape({n, vocab}));
    return std::vector<double>(values.begin(), values.end());
  };
  const auto size = static_cast<size_t>(n * vocab);
  return model.weights->dtype() == DType::kF64 ? run(std::vector<double>(size))
                                               : run(std::vector<float>(size));
}

std::vector<double> chunked_logits(const TinyModel& model, Backend& backend,
                                   const std::vector<int32_t>& ids, int64_t chunk) {
  const auto total = static_cast<int64_t>(ids.size());
  infer::KvCache cache(model.config, model.weights->dtype(), 1, total, backend.memory(), chunk);
  model::IncrementalPass pass(model.config, *model.weights, backend, chunk, chunk, total,
                              backend.memory());
  const int64_t sequence = cache.add_sequence();
  std::vector<double> all;
  for (int64_t begin = 0; begin < total; begin += chunk) {
    const int64_t count = std::min(chunk, total - begin);
    std::vector<int64_t> rows(static_cast<size_t>(count));
    std::iota(rows.begin(), rows.end(), 0);
    cache.extend(sequence, count);
    const model::SequenceChunk part{
        sequence, begin,
        std::span(ids).subspan(static_cast<size_t>(begin), static_cast<size_t>(count))};
    const Tensor logits = pass.forward({&part, 1}, cache, rows);
    const auto values = model::download(backend, logits.reshape({logits.numel()}));
    all.insert(all.end(), values.begin(), values.end());
    cache.release_before(sequence, cache.length(sequence));
  }
  return all;
}

std::vector<double> prompt_logits(const TinyModel& model, Backend& backend,
                                  const std::vector<int32_t>& ids, int64_t chunk) {
  const auto total = static_cast<int64_t>(ids.size());
  infer::KvCache cache(model.config, model.weights->dtype(), 1, total, backend.memory(), chunk);
  model::IncrementalPass pass(model.config, *model.weights, backend, chunk, 1, total,
                              backend.memory());
  const int64_t sequence = cache.add_sequence();
  for (int64_t begin = 0;; begin += chunk) {
    const int64_t count = std::min(chunk, total - begin), last = count - 1;
    cache.extend(sequence, count);
    const model::SequenceChunk part{
        sequence, begin,
        std::span(ids).subspan(static_cast<size_t>(begin), static_cast<size_t>(count)),
        /*asks_from=*/total - 1};
    const bool asks = begin + count == total;
    const Tensor logits = pass.forward(
        {&part, 1}, cache, asks ? std::span<const int64_t>(&last, 1) : std::span<const int64_t>());
    if (asks) return model::download(backend, logits.reshape({logits.numel()}));
    cache.release_before(sequence, cache.length(sequence));
  }
}

}  // namespace longgen::testing
