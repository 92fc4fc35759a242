#include "bench/inference.h"

#include <algorithm>
#include <numeric>

#include "bench/shapes.h"
#include "longgen/backend/device_queue.h"
#include "longgen/backend/memory_use.h"
#include "longgen/base/error.h"
#include "longgen/base/system.h"
#include "longgen/base/units.h"
#include "longgen/infer/engine.h"
#include "longgen/infer/kv_cache.h"
#include "longgen/model/decoder.h"

namespace longgen::bench {
namespace {

constexpr int64_t kFillChunk = 1024;
// Memory is touched; on a device, calls are captured the second time.
constexpr int64_t kWarmUpSteps = 2;

// What every step reads: all weights but the rows of an embedding that is not the head as well.
double read_weights_bytes(const ServedModel& model) {
  auto bytes = static_cast<double>(model.weights.bytes());
  if (!model.config.tie_word_embeddings) {
    bytes -= static_cast<double>(model.weights["model.embed_tokens.weight"].bytes());
  }
  return bytes;
}

void prefill(model::IncrementalPass& pass, infer::KvCache& cache, std::span<const int32_t> ids,
             int64_t chunk) {
  const int64_t sequence = cache.add_sequence();
  const auto total = static_cast<int64_t>(ids.size());
  for (int64_t begin = 0; begin < total; begin += chunk) {
    const int64_t count = std::min(chunk, total - begin), last_row = count - 1;
    const model::SequenceChunk part{
        sequence, begin, ids.subspan(static_cast<size_t>(begin), static_cast<size_t>(count)),
        /*asks_from=*/total - 1};
    const bool last = begin + count == total;
    cache.extend(sequence, count);
    pass.forward({&part, 1}, cache,
                 last ? std::span<const int64_t>(&last_row, 1) : std::span<const int64_t>());
    cache.release_before(sequence, cache.length(sequence));
  }
  cache.remove_sequence(sequence);
}

// Sequences side by side in one cache, and steps of all of them.
class DecodeRun {
 public:
  DecodeRun(const ServedModel& model, const DecodeCase& c)
      : model_(model),
        memory_(model.backend),
        cache_(model.config, model.weights.dtype(), c.batch,
               c.depths.back() + c.steps + kWarmUpSteps, model.backend.memory(), kFillChunk),
        pass_(model.config, model.weights, model.backend, c.batch, c.batch,
              c.depths.back() + c.steps + kWarmUpSteps, model.backend.memory()),
        arena_("decode benchmark", model.backend.memory(), 2 * fill_bytes(model)),
        rows_(static_cast<size_t>(c.batch)) {
    const model::ModelConfig& config = model.config;
    keys_ = arena_.allocate("keys", model.weights.dtype(),
                            {kFillChunk, config.num_kv_heads, config.head_dim});
    values_ = arena_.allocate("values", model.weights.dtype(), keys_.shape());
    fill_random(keys_, 1, model.seed + 1, &model.backend);
    fill_random(values_, 1, model.seed + 2, &model.backend);
    for (int64_t i = 0; i < c.batch; ++i) sequences_.push_back(cache_.add_sequence());
    std::iota(rows_.begin(), rows_.end(), 0);
  }

  int64_t depth() const { return cache_.length(sequences_[0]); }
  const infer::KvCache& cache() const { return cache_; }
  int64_t memory_bytes() const { return memory_.bytes(model_.weights.bytes()); }

  void fill_to(int64_t depth) {
    for (const int64_t sequence : sequences_) {
      while (cache_.length(sequence) < depth) {
        const int64_t first = cache_.length(sequence), count = std::min(kFillChunk, depth - first);
        cache_.extend(sequence, count);
        for (int64_t layer = 0; layer < model_.config.num_layers; ++layer) {
          write(layer, sequence, first, count);
        }
        cache_.release_before(sequence, cache_.length(sequence));
      }
    }
  }

  double step(std::span<const int32_t> ids) {
    const double start = monotonic_seconds();
    chunks_.clear();
    for (size_t i = 0; i < sequences_.size(); ++i) {
      chunks_.push_back({sequences_[i], cache_.length(sequences_[i]), ids.subspan(i, 1)});
      cache_.extend(sequences_[i], 1);
    }
    pass_.forward(chunks_, cache_, rows_);
    for (const int64_t sequence : sequences_) {
      cache_.release_before(sequence, cache_.length(sequence));
    }
    model_.backend.synchronize();
    return std::max(monotonic_seconds() - start, 1e-9);
  }

 private:
  static int64_t fill_bytes(const ServedModel& model) {
    return kFillChunk * model.config.num_kv_heads * model.config.head_dim *
               dtype_size(model.weights.dtype()) +
           64;
  }

  void write(int64_t layer, int64_t sequence, int64_t first, int64_t count) {
    const AttentionPattern& pattern = model_.config.patterns[static_cast<size_t>(layer)];
    for (const model::KvStore::Part& part : cache_.parts(layer, sequence)) {
      model_.backend.kv_write(
          part.kv, cache_.dtype(), pattern.block_size, first,
          keys_.slice(0, 0, count).slice(1, part.head_begin, part.head_count),
          values_.slice(0, 0, count).slice(1, part.head_begin, part.head_count));
    }
  }

  const ServedModel& model_;
  MemoryUse memory_;
  infer::KvCache cache_;
  model::IncrementalPass pass_;
  Arena arena_;
  Tensor keys_, values_;
  std::vector<int64_t> sequences_, rows_;
  std::vector<model::SequenceChunk> chunks_;
};

Measurement decode_at(const ServedModel& model, const DecodeCase& c, DecodeRun& run,
                      int64_t depth) {
  run.fill_to(depth);
  const std::vector<int32_t> ids =
      random_ids((c.steps + kWarmUpSteps) * c.batch, model.config.vocab_size, model.seed);
  const auto of_step = [&](int64_t i) {
    return std::span(ids).subspan(static_cast<size_t>(i * c.batch), static_cast<size_t>(c.batch));
  };
  reset_peak_resident();
  for (int64_t i = 0; i < kWarmUpSteps; ++i) run.step(of_step(i));
  start_breakdown(model.backend);
  std::vector<double> seconds;
  std::vector<double> on_device;
  DeviceQueue* queue = device_queue(model.backend);
  for (int64_t i = 0; i < c.steps; ++i) {
    seconds.push_back(run.step(of_step(kWarmUpSteps + i)));
    if (queue != nullptr) on_device.push_back(queue->last_step_seconds());
  }
  Measurement m;
  m.timing = timing_of(std::move(seconds));
  finish_breakdown(model.backend, m.timing.total(), m);
  m.resident_bytes = run.memory_bytes();
  const int64_t middle = depth + c.steps / 2;
  const DType dtype = model.weights.dtype();
  m.tokens = static_cast<double>(c.batch);
  m.bytes = read_weights_bytes(model) +
            static_cast<double>(c.batch * infer::kv_bytes(model.config, dtype, middle).live);
  m.dtype = dtype;
  m.name = "decode at " + format_length(depth);
  if (c.batch > 1) m.name += fmt::format(", batch {}", c.batch);
  m.parameters = {{"depth", depth},
                  {"steps", c.steps},
                  {"batch", c.batch},
                  {"kv_bytes_in_use", run.cache().bytes_in_use()},
                  {"kv_bytes_allocated", run.cache().bytes_allocated()},
                  {"kv_bytes_all_full", run.cache().all_full_bytes()}};
  if (queue != nullptr) {
    const double median = timing_of(std::move(on_device)).median();
    m.parameters["device_seconds"] = median;
    m.name += fmt::format(" ({:.3f} ms on the device)", 1000 * median);
  }
  return m;
}

}  // namespace

Measurement measure_prefill(const ServedModel& model, const PrefillCase& c,
                            const Repeats& repeats) {
  const std::vector<int32_t> ids = random_ids(c.length, model.config.vocab_size, model.seed);
  const int64_t chunk = std::min(c.chunk, c.length);
  const MemoryUse memory(model.backend);
  infer::KvCache cache(model.config, model.weights.dtype(), 1, c.length, model.backend.memory(),
                       chunk);
  model::IncrementalPass pass(model.config, model.weights, model.backend, chunk, 1, c.length,
                              model.backend.memory());
  prefill(pass, cache, std::span(ids).first(static_cast<size_t>(chunk)), chunk);  // warm-up
  model.backend.synchronize();
  start_breakdown(model.backend);
  Measurement m;
  m.timing = measure(
      [&] {
        prefill(pass, cache, ids, chunk);
        model.backend.synchronize();
      },
      repeats);
  finish_breakdown(model.backend, m.timing.total(), m);
  m.resident_bytes = memory.bytes(model.weights.bytes());
  m.tokens = static_cast<double>(c.length);
  m.flops = model::count_prompt_flops(model.config, c.length);
  m.dtype = model.weights.dtype();
  m.name = "prefill " + format_length(c.length);
  m.parameters = {
      {"length", c.length}, {"chunk", chunk}, {"kv_bytes_allocated", cache.bytes_allocated()}};
  return m;
}

std::vector<Measurement> measure_decode(const ServedModel& model, const DecodeCase& c) {
  DecodeRun run(model, c);
  std::vector<Measurement> rows;
  for (const int64_t depth : c.depths) {
    require(rows.empty() || depth >= run.depth(),
            "depth {} lies within the {} tokens that the depth before it used; leave at least {} "
            "between depths",
            depth, run.depth(), c.steps + kWarmUpSteps);
    rows.push_back(decode_at(model, c, run, depth));
  }
  return rows;
}

int64_t prefill_bytes(const model::ModelConfig& config, DType dtype, Backend& backend,
                      const PrefillCase& c) {
  infer::EngineOptions options{.chunk = std::min(c.chunk, c.length), .max_batch = 1};
  options.max_tokens = c.length;
  options.score_rows = 1;
  const infer::EnginePlan plan = infer::Engine::plan(config, dtype, backend, options);
  return plan.workspace + plan.kv_peak;
}

int64_t decode_bytes(const model::ModelConfig& config, DType dtype, Backend& backend,
                     const DecodeCase& c) {
  infer::EngineOptions options{.chunk = 1, .max_batch = c.batch};
  options.max_tokens = c.depths.back() + c.steps + kWarmUpSteps;
  options.score_rows = 1;
  const infer::EnginePlan plan = infer::Engine::plan(config, dtype, backend, options);
  // While it is filled, a chunk's pages stand beside the live ones.
  return plan.workspace + plan.kv_peak +
         infer::kv_bytes(config, dtype, std::min(kFillChunk, options.max_tokens)).all_full;
}

}  // namespace longgen::bench
