#include <algorithm>
#include <vector>

#include "longgen/backend/device_queue.h"
#include "longgen/base/checked.h"
#include "longgen/model/buffers.h"
#include "longgen/model/cached_attention.h"
#include "longgen/model/decoder.h"
#include "longgen/model/decoder_layer.h"
#include "longgen/model/head.h"
#include "longgen/model/needed_rows.h"
#include "longgen/model/step_inputs.h"

namespace longgen::model {
namespace {

// Equal parts of the rows, each enough to keep the products busy; more would only cost memory. On a
// GPU at most 132 tiles of 128 rows, which a Hopper GPU's 132 processors take in whole waves.
int64_t mlp_chunk(Backend& backend, int64_t rows) {
  const int64_t most = backend.memory().device() == Device::kHost ? 2048 : 132 * 128;
  return ceil_div(rows, ceil_div(rows, most));
}

}  // namespace

struct IncrementalPass::Impl {
  Impl(const ModelConfig& config, const ParameterSet& weights, Backend& backend, int64_t max_rows,
       int64_t max_logit_rows, int64_t max_position, MemoryResource& memory);

  void plan(Arena& arena);
  void set(std::span<const SequenceChunk> chunks, KvStore& store);
  // Runs all layers; returns the last one's output at the given rows [logit_rows, d].
  Tensor run_layers(std::span<const int64_t> logit_rows);
  // Layer i's output at the rows of the call that later layers need; of others that they attend to,
  // its keys and values.
  void run_layer(size_t i, const Tensor& out, const Tensor& in);
  void write_keys(size_t i, const RowRange& rows, const Tensor& in);
  // The last layer where only these rows, of `asked` by chunk, are wanted of it.
  Tensor run_last_layer(std::span<const int64_t> logit_rows, std::span<const RowRange> asked,
                        const Tensor& out, const Tensor& in);
  // The call's rows whose keys and values layer i needs: those whose outputs the layer below gives.
  RowRange needed_of(size_t i) const;
  // By chunk, its last row or none, where these rows are no others; else nothing.
  std::vector<RowRange> last_rows(std::span<const int64_t> logit_rows) const;
  StepContext step_of(const RowRange& range);
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
  Tensor logit_positions;  // i32 [max_logit_rows]
  LayerActivations activations;
  LayerScratch scratch;
  HeadBuffers head_buffers;
  std::vector<int32_t> host_ids, host_positions, host_logit_positions;
  std::span<const SequenceChunk> chunks;  // of this call
  std::vector<NeededRows> needed;         // empty: all of every layer
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
  logit_positions =
      arena.allocate("ids and tables: positions with logits", DType::kI32, {max_logit_rows});
  head_buffers = HeadBuffers::allocate(arena, config, dtype, max_logit_rows, false);
  {
    const ArenaScope scope(arena);
    activations.attention = AttentionActivations::allocate(
        arena, config, dtype, max_rows, /*for_backward=*/false, /*output_elsewhere=*/false,
        /*side_by_side=*/true);
    scratch.normed = arena.allocate("normed", dtype, {max_rows, config.hidden_size});
    attention.allocate(arena, dtype, max_rows);
  }
  scratch.mlp = MlpBuffers::allocate(arena, config, dtype, mlp_chunk(backend, max_rows), false,
                                     /*side_by_side=*/true);
}

void IncrementalPass::Impl::set(std::span<const SequenceChunk> new_chunks, KvStore& store) {
  chunks = new_chunks;
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
  needed.clear();
  if (chunks.size() == 1 && chunks[0].asks_from > chunks[0].first_position) {
    needed = needed_rows(config, chunks[0].asks_from);
  }
}

RowRange IncrementalPass::Impl::needed_of(size_t i) const {
  if (needed.empty()) return {0, inputs.rows()};
  return needed[i].of(chunks[0].first_position, inputs.rows());
}

StepContext IncrementalPass::Impl::step_of(const RowRange& range) {
  const StepContext all = inputs.context(backend);
  return {backend, rows(all.positions, range.begin, range.count), all.rope_table};
}

std::vector<RowRange> IncrementalPass::Impl::last_rows(std::span<const int64_t> logit_rows) const {
  std::vector<RowRange> last(chunks.size());
  size_t found = 0;
  int64_t end = 0;
  for (size_t i = 0; i < chunks.size(); ++i) {
    const auto count = static_cast<int64_t>(chunks[i].ids.size());
    end += count;
    if (found == logit_rows.size() || logit_rows[found] != end - 1) continue;
    last[i] = {count - 1, 1};
    ++found;
  }
  return found == logit_rows.size() ? last : std::vector<RowRange>();
}

Tensor IncrementalPass::Impl::run_layers(std::span<const int64_t> logit_rows) {
  Tensor in = first(x[0], inputs.rows()), out = first(x[1], inputs.rows());
  embedding.forward(backend, in, inputs.embedding_ids());
  require(logit_rows.empty() || logit_rows[0] >= needed_of(layers.size()).begin,
          "logits of row {} are asked for, but the chunk said from position {} on",
          logit_rows.empty() ? 0 : logit_rows[0], chunks[0].asks_from);
  // Where every row is asked for (decode), the last layer is as the others.
  const bool all = static_cast<int64_t>(logit_rows.size()) == inputs.rows();
  const std::vector<RowRange> asked = all ? std::vector<RowRange>() : last_rows(logit_rows);
  for (size_t i = 0; i + (asked.empty() ? 0 : 1) < layers.size(); ++i) {
    run_layer(i, out, in);
    std::swap(in, out);
  }
  return asked.empty() ? gather(in, logit_rows) : run_last_layer(logit_rows, asked, out, in);
}

void IncrementalPass::Impl::write_keys(size_t i, const RowRange& range, const Tensor& in) {
  if (range.count <= 0) return;
  const LayerActivations a = activations.first_rows(range.count);
  if (chunks.size() == 1) attention.select({&range, 1}, /*written=*/false);
  layers[i].forward_keys(step_of(range), a, scratch.first_rows(range.count),
                         rows(in, range.begin, range.count));
  attention.write(static_cast<int64_t>(i), a.attention);
}

void IncrementalPass::Impl::run_layer(size_t i, const Tensor& out, const Tensor& in) {
  const RowRange keys = needed_of(i), range = needed_of(i + 1);
  if (range.count == 0) return write_keys(i, keys, in);
  write_keys(i, {keys.begin, range.begin - keys.begin}, in);
  write_keys(i, {range.end(), keys.end() - range.end()}, in);
  LayerActivations a = activations.first_rows(range.count);
  a.mid = rows(out, range.begin, range.count);
  if (chunks.size() == 1) attention.select({&range, 1}, /*written=*/false);
  layers[i].forward(step_of(range), a, scratch.first_rows(range.count), a.mid,
                    rows(in, range.begin, range.count), attention);
}

Tensor IncrementalPass::Impl::run_last_layer(std::span<const int64_t> logit_rows,
                                             std::span<const RowRange> asked, const Tensor& out,
                                             const Tensor& in) {
  const size_t last = layers.size() - 1;
  write_keys(last, needed_of(last), in);
  const auto n = static_cast<int64_t>(logit_rows.size());
  const Tensor from = gather(in, logit_rows);
  if (n == 0) return from;
  host_logit_positions.clear();
  for (const int64_t row : logit_rows) {
    host_logit_positions.push_back(host_positions[static_cast<size_t>(row)]);
  }
  StepContext step = step_of({0, 0});
  step.positions = first(logit_positions, n);
  upload(backend, step.positions, std::span<const int32_t>(host_logit_positions));
  LayerActivations a = activations.first_rows(n);
  a.mid = config.parallel_residual ? first(out, n) : from;
  attention.select(asked, /*written=*/true);
  layers[last].forward(step, a, scratch.first_rows(n), a.mid, from, attention);
  return a.mid;
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
    const Tensor x = p.run_layers(logit_rows);
    logits = logit_rows.empty() ? first(p.head_buffers.logits, 0)
                                : p.head.logits(p.backend, p.head_buffers, x);
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
