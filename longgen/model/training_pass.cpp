#include <algorithm>
#include <vector>

#include "longgen/model/buffers.h"
#include "longgen/model/decoder.h"
#include "longgen/model/decoder_layer.h"
#include "longgen/model/head.h"
#include "longgen/model/layer_store.h"
#include "longgen/model/packed_attention.h"
#include "longgen/model/step_inputs.h"

namespace longgen::model {

// Memory: the inputs of every layer; attention's outputs where they are kept; one layer's
// activations (one each where they are kept); one gradient of the residual stream; scratch that the
// layers share, under the head's. Names of allocations begin with their purpose, as memory_items()
// gives it.
struct TrainingPass::Impl {
  Impl(const ModelConfig& config, const ParameterSet& weights, Backend& backend, int64_t max_tokens,
       const TrainOptions& options, MemoryResource& memory, MemoryResource& offload_memory);

  void plan(Arena& arena, Arena& host);
  void plan_kept(Arena& arena, Arena& host);
  void plan_activations(Arena& arena);
  void plan_scratch(Arena& arena);

  // Uploads the sequence; returns the number of valid labels.
  int64_t set(const PackedSequence& sequence);
  // for_backward: what backward needs is offloaded, where it is to be.
  void forward(bool for_backward);
  void backward(const ParameterSet& gradients);
  void backward_layer(int64_t layer, const ParameterSet& gradients);
  LossSum loss_sum(int64_t count, std::span<float> token_losses);

  int64_t rows() const { return inputs.rows(); }
  // Channels of the residual stream, or of attention's output where those are more.
  int64_t widest() const {
    return std::max(config.num_heads * config.head_dim, config.hidden_size);
  }
  // [T, d]; that of layer num_layers is the last one's output.
  Tensor input(int64_t layer) { return first(inputs_of_layers.read(layer), rows()); }
  // Attention's output and log-sum-exp are where they are kept, which a layer's run writes or
  // reads.
  LayerActivations activations_of(int64_t layer, bool writes);
  bool keeps_output(int64_t layer) const { return kept_index[static_cast<size_t>(layer)] >= 0; }

  const ModelConfig config;
  Backend& backend;
  const DType dtype;
  const int64_t max_tokens;
  const TrainOptions options;
  // Gate and up are one product forward and one for their weights; so are q, k and v: worth it
  // where operands are packed again by every call.
  const bool joins_products;

  Embedding embedding;
  std::vector<DecoderLayer> layers;
  Head head;
  StepInputs inputs;
  PackedAttention attention;

  Tensor labels, losses;                              // i32 [T], acc [T]
  LayerStore inputs_of_layers, outputs_of_attention;  // [T, d], [T, q_heads * head_dim]
  std::vector<int64_t> kept_index;                    // a layer's entry in the latter; -1: none
  int64_t kept_count = 0;
  Tensor kept_lse;  // acc [kept, q_heads, T]
  Tensor d;         // [T, d], gradient of the residual stream
  std::vector<LayerActivations> activations;
  Tensor passing;  // normed, mid (unless each layer keeps its own) and dout, one after the other
  LayerScratch scratch;
  HeadBuffers head_buffers;
  std::vector<int32_t> host_ids, host_positions;
  std::vector<double> host_losses;
  std::unique_ptr<Arena> arena, host_arena;
};

namespace {

// The attention of a layer whose output is there already.
class KeptAttention : public AttentionCall {
 public:
  void run(int64_t, const AttentionActivations&) override {}
};

// Layer by layer, whether its attention's output is kept.
std::vector<bool> kept_layers(const ModelConfig& config, const TrainOptions& options) {
  std::vector<bool> kept;
  int64_t sparse = 0;
  for (const AttentionPattern& pattern : config.patterns) {
    const bool counts = pattern.is_full() || sparse++ < options.keep_sparse;
    kept.push_back(options.recomputes_attention() &&
                   (options.keep_outputs == KeptOutputs::kAllLayers ||
                    (options.keep_outputs == KeptOutputs::kFullLayers && counts)));
  }
  return kept;
}

}  // namespace

TrainingPass::Impl::Impl(const ModelConfig& c, const ParameterSet& weights, Backend& b,
                         int64_t tokens, const TrainOptions& o, MemoryResource& memory,
                         MemoryResource& offload_memory)
    : config(c),
      backend(b),
      dtype(weights.dtype()),
      max_tokens(tokens),
      options(o),
      joins_products(b.memory().device() == Device::kHost),
      embedding(weights),
      head(config, weights),
      inputs(config, tokens, tokens),
      attention(config, b),
      inputs_of_layers(b),
      outputs_of_attention(b) {
  config.validate();
  require(b.supports(dtype), "backend {} cannot compute in {}", b.description(), dtype_name(dtype));
  require(o.mlp_chunk > 0 && o.loss_chunk > 0, "chunks of {} and {} tokens", o.mlp_chunk,
          o.loss_chunk);
  require(o.offload == Offload::kNone || o.recomputes_attention(),
          "what is offloaded is layer inputs and attention outputs, which takes recomputation of "
          "everything else");
  for (int64_t i = 0; i < config.num_layers; ++i) layers.emplace_back(config, weights, i);
  for (const bool kept : kept_layers(config, o)) kept_index.push_back(kept ? kept_count++ : -1);
  host_losses.resize(static_cast<size_t>(tokens));
  NoMemory nothing;
  Arena measured("training activations", nothing, INT64_MAX);
  Arena measured_host("offloaded activations", nothing, INT64_MAX);
  plan(measured, measured_host);
  arena = std::make_unique<Arena>("training activations", memory, measured.high_water_bytes());
  host_arena = std::make_unique<Arena>("offloaded activations", offload_memory,
                                       measured_host.high_water_bytes());
  plan(*arena, *host_arena);
  inputs.fill_table(backend);
}

void TrainingPass::Impl::plan(Arena& arena, Arena& host) {
  const DType acc = accumulation_dtype(dtype);
  inputs.allocate(arena);
  labels = arena.allocate("ids and tables: labels", DType::kI32, {max_tokens});
  losses = arena.allocate("ids and tables: losses", acc, {max_tokens});
  plan_kept(arena, host);
  plan_activations(arena);
  {
    const ArenaScope scope(arena);
    head_buffers =
        HeadBuffers::allocate(arena, config, dtype, std::min(options.loss_chunk, max_tokens), true,
                              /*apart=*/joins_products);
  }
  plan_scratch(arena);
}

void TrainingPass::Impl::plan_kept(Arena& arena, Arena& host) {
  Arena* inputs_to = options.offload == Offload::kInputsAndOutputs ? &host : nullptr;
  Arena* outputs_to = options.offload == Offload::kNone ? nullptr : &host;
  inputs_of_layers.allocate(arena, inputs_to, "layer inputs", dtype, config.num_layers + 1,
                            max_tokens, config.hidden_size);
  if (kept_count == 0) return;
  outputs_of_attention.allocate(arena, outputs_to, "kept attention outputs", dtype, kept_count,
                                max_tokens, config.num_heads * config.head_dim);
  kept_lse = arena.allocate("kept attention outputs: log-sum-exp", accumulation_dtype(dtype),
                            {kept_count, config.num_heads * max_tokens});
}

void TrainingPass::Impl::plan_activations(Arena& arena) {
  const int64_t width = options.recomputes_attention() ? widest() : config.hidden_size;
  activations.clear();
  for (int64_t i = 0; i < (options.recomputes_attention() ? 1 : config.num_layers); ++i) {
    LayerActivations a;
    a.attention = AttentionActivations::allocate(arena, config, dtype, max_tokens, true,
                                                 kept_count == config.num_layers, joins_products);
    const Tensor mid = arena.allocate("activations: after attention", dtype, {max_tokens * width});
    a.mid = front(mid, {max_tokens, config.hidden_size});
    // A layer's normed input is gone when its mid is written, and mid when dout is.
    if (options.recomputes_attention()) passing = mid;
    if (!options.recompute) {
      a.mlp =
          MlpSaved::allocate(arena, "activations: mlp", config, dtype, max_tokens, joins_products);
    }
    activations.push_back(a);
  }
  d = arena.allocate("gradients of activations: residual stream", dtype,
                     {max_tokens, config.hidden_size});
}

LayerActivations TrainingPass::Impl::activations_of(int64_t layer, bool writes) {
  const bool shared = options.recomputes_attention();
  LayerActivations a = activations[shared ? 0 : static_cast<size_t>(layer)];
  if (keeps_output(layer)) {
    const int64_t entry = kept_index[static_cast<size_t>(layer)];
    const Tensor out =
        writes ? outputs_of_attention.write(entry) : outputs_of_attention.read(entry);
    a.attention.out = out.reshape({max_tokens, config.num_heads, config.head_dim});
    a.attention.lse = kept_lse.slice(0, entry, 1).reshape({config.num_heads, max_tokens});
  }
  return a.first_rows(rows());
}

void TrainingPass::Impl::plan_scratch(Arena& arena) {
  scratch = {};
  if (!options.recomputes_attention()) {
    passing = arena.allocate("activations: normed, gradient of attention out", dtype,
                             {max_tokens * widest()});
  }
  scratch.normed = front(passing, {max_tokens, config.hidden_size});
  const auto norm_gradient = [&] {
    return arena.allocate("gradients of activations: norm", dtype,
                          {max_tokens, config.hidden_size});
  };
  if (config.parallel_residual) scratch.dnormed = norm_gradient();  // lasts through the MLP
  {
    const ArenaScope scope(arena);
    attention.allocate(arena, dtype, max_tokens);
    scratch.attention =
        AttentionGradients::allocate(arena, config, dtype, max_tokens, backend, joins_products);
    scratch.attention.dout = front(passing, {max_tokens, config.num_heads, config.head_dim});
    // Attention's backward is over when the norm's gradient is formed.
    const Tensor& workspace = scratch.attention.workspace;
    const int64_t bytes = max_tokens * config.hidden_size * dtype_size(dtype);
    if (!scratch.dnormed.defined()) {
      scratch.dnormed = workspace.numel() < bytes
                            ? norm_gradient()
                            : Tensor(workspace.raw(), dtype, {max_tokens, config.hidden_size},
                                     workspace.device());
    }
  }
  scratch.mlp = MlpBuffers::allocate(arena, config, dtype, std::min(options.mlp_chunk, max_tokens),
                                     true, joins_products);
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

void TrainingPass::Impl::forward(bool for_backward) {
  const StepContext step = inputs.context(backend);
  const LayerScratch shared = scratch.first_rows(rows());
  embedding.forward(backend, first(inputs_of_layers.write(0), rows()), inputs.embedding_ids());
  for (int64_t i = 0; i < config.num_layers; ++i) {
    if (for_backward) inputs_of_layers.written(i);
    const LayerActivations a = activations_of(i, /*writes=*/true);
    const Tensor in = input(i), out = first(inputs_of_layers.write(i + 1), rows());
    layers[static_cast<size_t>(i)].forward(step, a, shared, out, in, attention);
    if (for_backward && keeps_output(i)) {
      outputs_of_attention.written(kept_index[static_cast<size_t>(i)]);
    }
  }
}

// `d` holds the gradient at the last layer's output.
void TrainingPass::Impl::backward(const ParameterSet& gradients) {
  for (int64_t i = config.num_layers - 1; i >= 0; --i) {
    inputs_of_layers.fetch(i - 1);
    if (keeps_output(i)) outputs_of_attention.fetch(kept_index[static_cast<size_t>(i)] - 1);
    backward_layer(i, gradients);
  }
  embedding.backward(backend, gradients, first(d, rows()), inputs.embedding_ids());
}

void TrainingPass::Impl::backward_layer(int64_t i, const ParameterSet& gradients) {
  const StepContext step = inputs.context(backend);
  const LayerScratch shared = scratch.first_rows(rows());
  const DecoderLayer& layer = layers[static_cast<size_t>(i)];
  const LayerActivations a = activations_of(i, /*writes=*/false);
  const Tensor in = input(i);
  // The last layer's activations are still those of the forward pass.
  if (options.recomputes_attention() && i + 1 < config.num_layers) {
    KeptAttention kept;
    AttentionCall& call = keeps_output(i) ? static_cast<AttentionCall&>(kept) : attention;
    layer.forward_attention(step, a, shared, in, call);
  }
  layer.backward(step, gradients, a, shared, first(d, rows()), in, attention.documents());
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
                           int64_t max_tokens, const TrainOptions& options, MemoryResource& memory,
                           MemoryResource* offload_memory)
    : impl_(std::make_unique<Impl>(config, weights, backend, max_tokens, options, memory,
                                   offload_memory != nullptr ? *offload_memory : memory)) {}

TrainingPass::~TrainingPass() = default;

LossSum TrainingPass::evaluate(const PackedSequence& sequence, std::span<float> token_losses) {
  Impl& p = *impl_;
  const int64_t count = p.set(sequence);
  p.forward(/*for_backward=*/false);
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
  p.forward(/*for_backward=*/true);
  p.head.loss_backward(p.backend, gradients, p.head_buffers, first(p.losses, p.rows()),
                       first(p.d, p.rows()), p.input(p.config.num_layers),
                       first(p.labels, p.rows()), loss_scale);
  p.backward(gradients);
  return p.loss_sum(count, {});
}

void TrainingPass::logits(const PackedSequence& sequence, const Tensor& out) {
  Impl& p = *impl_;
  p.set(sequence);
  p.forward(/*for_backward=*/false);
  const Tensor x = p.input(p.config.num_layers);
  const int64_t chunk = p.head_buffers.normed.dim(0);
  for (int64_t begin = 0; begin < x.dim(0); begin += chunk) {
    const int64_t count = std::min(chunk, x.dim(0) - begin);
    p.backend.copy(model::rows(out, begin, count),
                   p.head.logits(p.backend, p.head_buffers, model::rows(x, begin, count)));
  }
}

const Arena& TrainingPass::arena() const { return *impl_->arena; }

std::vector<MemoryItem> TrainingPass::memory_items() const {
  std::vector<MemoryItem> items;
  for (const Arena* arena : {impl_->arena.get(), impl_->host_arena.get()}) {
    const bool offloaded = arena == impl_->host_arena.get();
    for (const Arena::Entry& entry : arena->high_water_entries()) {
      const std::string purpose = entry.name.substr(0, entry.name.find(':'));
      auto item = std::find_if(items.begin(), items.end(), [&](const MemoryItem& known) {
        return known.name == purpose && known.offloaded == offloaded;
      });
      if (item == items.end()) item = items.insert(items.end(), {purpose, 0, offloaded});
      item->bytes += entry.bytes;
    }
  }
  return items;
}

}  // namespace longgen::model
