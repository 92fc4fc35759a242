#include <algorithm>
#include <vector>

#include "longgen/backend/device_queue.h"
#include "longgen/model/buffers.h"
#include "longgen/model/cached_attention.h"
#include "longgen/model/decoder.h"
#include "longgen/model/decoder_layer.h"
#include "longgen/model/head.h"
#include "longgen/model/step_inputs.h"

namespace longgen::model {
namespace {

// Enough rows to keep the products busy; more would only cost memory.
int64_t mlp_chunk(Backend& backend) {
  return backend.memory().device() == Device::kHost ? 2048 : 16384;
}

}  // namespace

struct IncrementalPass::Impl {
  Impl(const ModelConfig& config, const ParameterSet& weights, Backend& backend, int64_t max_rows,
       int64_t max_logit_rows, int64_t max_position, MemoryResource& memory);

  void plan(Arena& arena);
  void set(std::span<const SequenceChunk> chunks, KvStore& store);
  // Runs all layers; returns the last one's output [T, d].
  Tensor run_layers();
  // Rows of x [T, d] gathered into logit_x.
  Tensor gather(const Tensor& x, std::span<const int64_t> wanted);

  const ModelConfig config;
  Backend& backend;
  const DType dtype;
  const int64_t max_rows, max_logit_rows;

  Embedding embedding;
  std::vector<DecoderLayer> layers;
  Head head;
  StepInputs inputs;
  CachedAttention attention;

  Tensor x[2];     // [T, d], a layer's input and output in turn; the same one where that may be
  Tensor logit_x;  // [max_logit_rows, d]
  LayerActivations activations;
  LayerScratch scratch;
  HeadBuffers head_buffers;
  std::vector<int32_t> host_ids, host_positions;
  std::unique_ptr<Arena> arena;
};

IncrementalPass::Impl::Impl(const ModelConfig& c, const ParameterSet& weights, Backend& b,
                            int64_t most_rows, int64_t most_logit_rows, int64_t max_position,
                            MemoryResource& memory)
    : config(c),
      backend(b),
      dtype(weights.dtype()),
      max_rows(most_rows),
      max_logit_rows(most_logit_rows),
      embedding(weights),
      head(config, weights),
      inputs(config, most_rows, max_position),
      attention(config, b) {
  config.validate();
  require(b.supports(dtype), "backend {} cannot compute in {}", b.description(), dtype_name(dtype));
  require(max_logit_rows > 0, "a pass that gives logits of {} rows", max_logit_rows);
  for (int64_t i = 0; i < config.num_layers; ++i) layers.emplace_back(config, weights, i);
  arena = planned_arena("incremental activations", memory, [this](Arena& a) { plan(a); });
  inputs.fill_table(backend);
}

void IncrementalPass::Impl::plan(Arena& arena) {
  inputs.allocate(arena);
  const auto stream = [&] {
    return arena.allocate("residual stream", dtype, {max_rows, config.hidden_size});
  };
  x[0] = stream();
  x[1] = config.parallel_residual ? stream() : x[0];
  logit_x = arena.allocate("rows with logits", dtype, {max_logit_rows, config.hidden_size});
  head_buffers = HeadBuffers::allocate(arena, config, dtype, max_logit_rows, false);
  {
    const ArenaScope scope(arena);
    activations.attention = AttentionActivations::allocate(
        arena, config, dtype, max_rows, /*for_backward=*/false, /*output_elsewhere=*/false,
        /*side_by_side=*/true);
    scratch.normed = arena.allocate("normed", dtype, {max_rows, config.hidden_size});
    attention.allocate(arena, dtype, max_rows);
  }
  const int64_t chunk = std::min(mlp_chunk(backend), max_rows);
  scratch.mlp = MlpBuffers::allocate(arena, config, dtype, chunk, false, /*side_by_side=*/true);
}

void IncrementalPass::Impl::set(std::span<const SequenceChunk> chunks, KvStore& store) {
  host_ids.clear();
  host_positions.clear();
  for (const SequenceChunk& chunk : chunks) {
    require(!chunk.ids.empty(), "an empty chunk of sequence {}", chunk.sequence);
    host_ids.insert(host_ids.end(), chunk.ids.begin(), chunk.ids.end());
    for (size_t i = 0; i < chunk.ids.size(); ++i) {
      host_positions.push_back(
          static_cast<int32_t>(chunk.first_position + static_cast<int64_t>(i)));
    }
  }
  inputs.set(backend, host_ids, host_positions);
  attention.set(chunks, store);
}

Tensor IncrementalPass::Impl::run_layers() {
  const StepContext step = inputs.context(backend);
  const LayerScratch shared = scratch.first_rows(inputs.rows());
  LayerActivations a = activations.first_rows(inputs.rows());
  Tensor in = first(x[0], inputs.rows()), out = first(x[1], inputs.rows());
  embedding.forward(backend, in, inputs.embedding_ids());
  for (const DecoderLayer& layer : layers) {
    a.mid = out;
    layer.forward(step, a, shared, out, in, attention);
    std::swap(in, out);
  }
  return in;
}

Tensor IncrementalPass::Impl::gather(const Tensor& x, std::span<const int64_t> wanted) {
  const auto n = static_cast<int64_t>(wanted.size());
  require(n <= max_logit_rows, "logits of {} rows are asked for, but the pass was made for {}", n,
          max_logit_rows);
  for (int64_t i = 0; i < n;) {
    int64_t end = i + 1;  // a run of consecutive rows is one copy
    const auto row = [&](int64_t j) { return wanted[static_cast<size_t>(j)]; };
    while (end < n && row(end) == row(end - 1) + 1) ++end;
    backend.copy(model::rows(logit_x, i, end - i), model::rows(x, row(i), end - i));
    i = end;
  }
  return first(logit_x, n);
}

IncrementalPass::IncrementalPass(const ModelConfig& config, const ParameterSet& weights,
                                 Backend& backend, int64_t max_rows, int64_t max_logit_rows,
                                 int64_t max_position, MemoryResource& memory)
    : impl_(std::make_unique<Impl>(config, weights, backend, max_rows, max_logit_rows, max_position,
                                   memory)) {
  check_native_window(config, max_position);
}

IncrementalPass::~IncrementalPass() = default;

Tensor IncrementalPass::forward(std::span<const SequenceChunk> chunks, KvStore& store,
                                std::span<const int64_t> logit_rows) {
  Impl& p = *impl_;
  Tensor logits;
  const auto run = [&] {
    p.set(chunks, store);
    const Tensor x = p.run_layers();
    logits = logit_rows.empty() ? first(p.head_buffers.logits, 0)
                                : p.head.logits(p.backend, p.head_buffers, p.gather(x, logit_rows));
  };
  DeviceQueue* queue = device_queue(p.backend);
  if (queue == nullptr) {
    run();
  } else {
    // Decode steps come again, each like the one before it.
    queue->step(std::ranges::all_of(chunks, [](const auto& c) { return c.ids.size() == 1; }), run);
  }
  return logits;
}

const Arena& IncrementalPass::arena() const { return *impl_->arena; }

}  // namespace longgen::model
