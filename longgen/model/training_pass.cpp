#include <algorithm>
#include <vector>

#include "longgen/model/buffers.h"
#include "longgen/model/decoder.h"
#include "longgen/model/decoder_layer.h"
#include "longgen/model/head.h"
#include "longgen/model/packed_attention.h"
#include "longgen/model/step_inputs.h"

namespace longgen::model {

// Memory: the inputs of every layer; one layer's activations (one each where they are kept); one
// gradient of the residual stream; scratch that the layers share, under the head's.
struct TrainingPass::Impl {
  Impl(const ModelConfig& config, const ParameterSet& weights, Backend& backend, int64_t max_tokens,
       const TrainOptions& options, MemoryResource& memory);

  void plan(Arena& arena);
  void plan_activations(Arena& arena);
  void plan_scratch(Arena& arena);

  // Uploads the sequence; returns the number of valid labels.
  int64_t set(const PackedSequence& sequence);
  void forward();
  void backward(const ParameterSet& gradients);
  LossSum loss_sum(int64_t count, std::span<float> token_losses);

  int64_t rows() const { return inputs.rows(); }
  // [T, d]; that of layer num_layers is the last one's output.
  Tensor input(int64_t layer) const {
    return x.slice(0, layer, 1).reshape({max_tokens, config.hidden_size}).slice(0, 0, rows());
  }
  LayerActivations activations_of(int64_t layer) const {
    return activations[recomputes_attention() ? 0 : static_cast<size_t>(layer)].first_rows(rows());
  }
  bool recomputes_attention() const { return options.recompute && options.recompute_attention; }

  const ModelConfig config;
  Backend& backend;
  const DType dtype;
  const int64_t max_tokens;
  const TrainOptions options;

  Embedding embedding;
  std::vector<DecoderLayer> layers;
  Head head;
  StepInputs inputs;
  PackedAttention attention;

  Tensor labels, losses;  // i32 [T], acc [T]
  Tensor x;               // [layers + 1, T, d]
  Tensor d;               // [T, d], gradient of the residual stream
  std::vector<LayerActivations> activations;
  LayerScratch scratch;
  HeadBuffers head_buffers;
  std::vector<int32_t> host_ids, host_positions;
  std::vector<double> host_losses;
  std::unique_ptr<Arena> arena;
};

TrainingPass::Impl::Impl(const ModelConfig& c, const ParameterSet& weights, Backend& b,
                         int64_t tokens, const TrainOptions& o, MemoryResource& memory)
    : config(c),
      backend(b),
      dtype(weights.dtype()),
      max_tokens(tokens),
      options(o),
      embedding(weights),
      head(config, weights),
      inputs(config, tokens, tokens),
      attention(config, b) {
  config.validate();
  require(b.supports(dtype), "backend {} cannot compute in {}", b.description(), dtype_name(dtype));
  require(o.mlp_chunk > 0 && o.loss_chunk > 0, "chunks of {} and {} tokens", o.mlp_chunk,
          o.loss_chunk);
  for (int64_t i = 0; i < config.num_layers; ++i) layers.emplace_back(config, weights, i);
  host_losses.resize(static_cast<size_t>(tokens));
  arena = planned_arena("training activations", memory, [this](Arena& a) { plan(a); });
  inputs.fill_table(backend);
}

void TrainingPass::Impl::plan(Arena& arena) {
  const DType acc = accumulation_dtype(dtype);
  inputs.allocate(arena);
  labels = arena.allocate("labels", DType::kI32, {max_tokens});
  losses = arena.allocate("losses", acc, {max_tokens});
  plan_activations(arena);
  {
    const ArenaScope scope(arena);
    head_buffers =
        HeadBuffers::allocate(arena, config, dtype, std::min(options.loss_chunk, max_tokens), true);
  }
  plan_scratch(arena);
}

void TrainingPass::Impl::plan_activations(Arena& arena) {
  activations.clear();
  x = arena.allocate("inputs of layers", dtype,
                     {config.num_layers + 1, max_tokens, config.hidden_size});
  for (int64_t i = 0; i < (recomputes_attention() ? 1 : config.num_layers); ++i) {
    LayerActivations a;
    a.attention = AttentionActivations::allocate(arena, config, dtype, max_tokens, true);
    a.mid = arena.allocate("after attention", dtype, {max_tokens, config.hidden_size});
    if (!options.recompute) {
      a.mlp.gate = arena.allocate("mlp gate", dtype, {max_tokens, config.intermediate_size});
      if (config.gated_mlp) {
        a.mlp.up = arena.allocate("mlp up", dtype, {max_tokens, config.intermediate_size});
      }
    }
    activations.push_back(a);
  }
  d = arena.allocate("gradient of the residual stream", dtype, {max_tokens, config.hidden_size});
}

void TrainingPass::Impl::plan_scratch(Arena& arena) {
  const int64_t q_size = config.num_heads * config.head_dim;
  const Tensor shared = arena.allocate("gradient of attention out, then of its norm", dtype,
                                       {max_tokens * std::max(q_size, config.hidden_size)});
  scratch.dnormed = front(shared, {max_tokens, config.hidden_size});
  {
    const ArenaScope scope(arena);
    scratch.normed = arena.allocate("normed", dtype, {max_tokens, config.hidden_size});
    attention.allocate(arena, dtype, max_tokens);
    scratch.attention = AttentionGradients::allocate(arena, config, dtype, max_tokens, backend);
    scratch.attention.dout = front(shared, {max_tokens, config.num_heads, config.head_dim});
  }
  scratch.mlp =
      MlpBuffers::allocate(arena, config, dtype, std::min(options.mlp_chunk, max_tokens), true);
}

int64_t TrainingPass::Impl::set(const PackedSequence& sequence) {
  const size_t n = sequence.ids.size();
  require(sequence.labels.size() == n, "{} labels for {} ids", sequence.labels.size(), n);
  attention.set_documents(static_cast<int64_t>(n), sequence.documents);

  // Padding takes id 0 and position 0, whatever the caller left there.
  host_ids.assign(n, 0);
  host_positions.assign(n, 0);
  std::vector<bool> padding(n, true);
  for (const DocumentRange& document : attention.documents()) {
    for (int64_t i = 0; i < document.row_count; ++i) {
      const auto row = static_cast<size_t>(document.row_begin + i);
      host_ids[row] = sequence.ids[row];
      host_positions[row] = static_cast<int32_t>(i);
      padding[row] = false;
    }
  }
  int64_t count = 0;
  for (size_t i = 0; i < n; ++i) {
    const int32_t label = sequence.labels[i];
    require(label >= -1 && label < config.vocab_size,
            "label {} at row {} is neither -1 nor in the vocabulary of {}", label, i,
            config.vocab_size);
    require(label == -1 || !padding[i], "row {} is padding, but has label {}", i, label);
    count += label != -1;
  }
  inputs.set(backend, host_ids, host_positions);
  upload(backend, first(labels, rows()), sequence.labels);
  return count;
}

void TrainingPass::Impl::forward() {
  const StepContext step = inputs.context(backend);
  const LayerScratch shared = scratch.first_rows(rows());
  embedding.forward(backend, input(0), inputs.embedding_ids());
  for (int64_t i = 0; i < config.num_layers; ++i) {
    layers[static_cast<size_t>(i)].forward(step, activations_of(i), shared, input(i + 1), input(i),
                                           attention);
  }
}

// `d` holds the gradient at the last layer's output.
void TrainingPass::Impl::backward(const ParameterSet& gradients) {
  const StepContext step = inputs.context(backend);
  const LayerScratch shared = scratch.first_rows(rows());
  const Tensor gradient = first(d, rows());
  for (int64_t i = config.num_layers - 1; i >= 0; --i) {
    const DecoderLayer& layer = layers[static_cast<size_t>(i)];
    const LayerActivations a = activations_of(i);
    // The last layer's activations are still those of the forward pass.
    if (recomputes_attention() && i + 1 < config.num_layers) {
      layer.forward_attention(step, a, shared, input(i), attention);
    }
    layer.backward(step, gradients, a, shared, gradient, input(i), attention.documents());
  }
  embedding.backward(backend, gradients, gradient, inputs.embedding_ids());
}

LossSum TrainingPass::Impl::loss_sum(int64_t count, std::span<float> token_losses) {
  const std::span<double> host = std::span(host_losses).first(static_cast<size_t>(rows()));
  backend.copy(Tensor::of(host), first(losses, rows()));
  LossSum sum{.count = count};
  for (const double loss : host) sum.loss += loss;
  if (!token_losses.empty()) {
    require(token_losses.size() == host.size(), "room for {} token losses, but {} rows",
            token_losses.size(), host.size());
    std::transform(host.begin(), host.end(), token_losses.begin(),
                   [](double loss) { return static_cast<float>(loss); });
  }
  return sum;
}

TrainingPass::TrainingPass(const ModelConfig& config, const ParameterSet& weights, Backend& backend,
                           int64_t max_tokens, const TrainOptions& options, MemoryResource& memory)
    : impl_(std::make_unique<Impl>(config, weights, backend, max_tokens, options, memory)) {}

TrainingPass::~TrainingPass() = default;

LossSum TrainingPass::evaluate(const PackedSequence& sequence, std::span<float> token_losses) {
  Impl& p = *impl_;
  const int64_t count = p.set(sequence);
  p.forward();
  p.head.loss(p.backend, p.head_buffers, first(p.losses, p.rows()), p.input(p.config.num_layers),
              first(p.labels, p.rows()));
  return p.loss_sum(count, token_losses);
}

LossSum TrainingPass::forward_backward(const PackedSequence& sequence, double loss_scale,
                                       const ParameterSet& gradients) {
  Impl& p = *impl_;
  require(gradients.dtype() == accumulation_dtype(p.dtype),
          "gradients are {}, but those of {} weights are kept in {}", dtype_name(gradients.dtype()),
          dtype_name(p.dtype), dtype_name(accumulation_dtype(p.dtype)));
  const int64_t count = p.set(sequence);
  p.forward();
  p.head.loss_backward(p.backend, gradients, p.head_buffers, first(p.losses, p.rows()),
                       first(p.d, p.rows()), p.input(p.config.num_layers),
                       first(p.labels, p.rows()), loss_scale);
  p.backward(gradients);
  return p.loss_sum(count, {});
}

void TrainingPass::logits(const PackedSequence& sequence, const Tensor& out) {
  Impl& p = *impl_;
  p.set(sequence);
  p.forward();
  const Tensor x = p.input(p.config.num_layers);
  const int64_t chunk = p.head_buffers.normed.dim(0);
  for (int64_t begin = 0; begin < x.dim(0); begin += chunk) {
    const int64_t count = std::min(chunk, x.dim(0) - begin);
    p.backend.copy(model::rows(out, begin, count),
                   p.head.logits(p.backend, p.head_buffers, model::rows(x, begin, count)));
  }
}

const Arena& TrainingPass::arena() const { return *impl_->arena; }

}  // namespace longgen::model
