#include "longgen/infer/engine.h"

#include <algorithm>
#include <numeric>

#include "longgen/base/checked.h"
#include "longgen/base/error.h"
#include "longgen/base/system.h"
#include "longgen/infer/running.h"
#include "longgen/model/buffers.h"

namespace longgen::infer {
namespace {

int64_t position_limit(const model::ModelConfig& config, const EngineOptions& options) {
  return options.max_tokens > 0 ? options.max_tokens : config.max_position_embeddings;
}

int64_t most_rows(const EngineOptions& options) {
  return std::max({options.chunk, options.max_batch, options.score_rows});
}

int64_t most_logit_rows(const EngineOptions& options) {
  return std::max(options.max_batch, options.score_rows);
}

// Tokens by which the cache grows at most before it releases pages.
int64_t most_new_tokens(const EngineOptions& options) {
  return std::max(options.chunk, options.score_rows);
}

}  // namespace

std::string_view finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kEndOfText:
      return "end_of_text";
    case FinishReason::kStopString:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      break;
  }
  return "cancelled";
}

void EngineStats::add(const EngineStats& other) {
  prefill_tokens += other.prefill_tokens;
  decode_tokens += other.decode_tokens;
  prefill_seconds += other.prefill_seconds;
  decode_seconds += other.decode_seconds;
  kv_bytes_in_use = std::max(kv_bytes_in_use, other.kv_bytes_in_use);
  kv_bytes_peak = std::max(kv_bytes_peak, other.kv_bytes_peak);
  kv_bytes_all_full = std::max(kv_bytes_all_full, other.kv_bytes_all_full);
  kv_bytes_all_full_peak = std::max(kv_bytes_all_full_peak, other.kv_bytes_all_full_peak);
  kv_bytes_allocated = std::max(kv_bytes_allocated, other.kv_bytes_allocated);
  kv_bytes_reserved = std::max(kv_bytes_reserved, other.kv_bytes_reserved);
}

Engine::Engine(const model::ModelConfig& config, const model::ParameterSet& weights,
               Backend& backend, const EngineOptions& options)
    : config_(config), backend_(backend), options_(options) {
  require(options.chunk >= 1 && options.max_batch >= 1 && options.score_rows >= 1,
          "engine: chunk {}, batch {} and score rows {} must be at least 1", options.chunk,
          options.max_batch, options.score_rows);
  const int64_t limit = position_limit(config, options);
  cache_ = std::make_unique<KvCache>(config, weights.dtype(), options.max_batch, limit,
                                     backend.memory(), most_new_tokens(options));
  pass_ =
      std::make_unique<model::IncrementalPass>(config, weights, backend, most_rows(options),
                                               most_logit_rows(options), limit, backend.memory());
  score_arena_ = model::planned_arena("scores", backend.memory(), [&](Arena& arena) {
    labels_ = arena.allocate("labels", DType::kI32, {options.score_rows});
    losses_ = arena.allocate("losses", accumulation_dtype(weights.dtype()), {options.score_rows});
  });
}

Engine::~Engine() = default;

Tensor Engine::on_host(const Tensor& logits) {
  if (logits.device() == Device::kHost) return logits;
  host_logits_.resize(static_cast<size_t>(logits.bytes()));
  const Tensor host(host_logits_.data(), logits.dtype(), logits.shape());
  backend_.copy(host, logits);
  return host;
}

void Engine::append_log_probabilities(std::vector<float>& out, const Tensor& logits,
                                      std::span<const int32_t> labels) {
  const auto count = static_cast<int64_t>(labels.size());
  const Tensor on_device = model::first(labels_, count), losses = model::first(losses_, count);
  model::upload(backend_, on_device, labels);
  backend_.softmax_cross_entropy(losses, Tensor(), logits, on_device, 1);
  for (const double loss : model::download(backend_, losses)) {
    out.push_back(static_cast<float>(-loss));
  }
}

EnginePlan Engine::plan(const model::ModelConfig& config, DType dtype, Backend& backend,
                        const EngineOptions& options) {
  NoMemory nothing;
  const model::ParameterSet weights("weights", config, dtype, nothing);
  const int64_t limit = position_limit(config, options);
  const model::IncrementalPass pass(config, weights, backend, most_rows(options),
                                    most_logit_rows(options), limit, nothing);
  EnginePlan plan;
  plan.workspace = pass.arena().high_water_bytes();
  plan.kv_peak =
      KvCache::bytes_needed(config, dtype, options.max_batch, limit, most_new_tokens(options));
  return plan;
}

Tensor Engine::prefill(int64_t sequence, std::span<const int32_t> prompt,
                       const std::function<void(int64_t)>& on_done,
                       const std::function<bool()>& cancelled) {
  const double start = monotonic_seconds();
  Tensor logits;
  const int64_t first = cache_->length(sequence);
  const auto total = static_cast<int64_t>(prompt.size());
  for (int64_t begin = 0; begin < total; begin += options_.chunk) {
    if (cancelled && cancelled()) return {};
    const int64_t count = std::min(options_.chunk, total - begin);
    const model::SequenceChunk chunk{
        sequence, first + begin,
        prompt.subspan(static_cast<size_t>(begin), static_cast<size_t>(count)),
        /*asks_from=*/first + total - 1};
    cache_->extend(sequence, count);
    const bool last = begin + count == total;
    const int64_t last_row = count - 1;
    logits =
        pass_->forward({&chunk, 1}, *cache_,
                       last ? std::span<const int64_t>(&last_row, 1) : std::span<const int64_t>());
    cache_->release_before(sequence, cache_->length(sequence));
    if (on_done) on_done(begin + count);
  }
  stats_.prefill_tokens += total;
  stats_.prefill_seconds += monotonic_seconds() - start;
  return logits;
}

Tensor Engine::decode(int64_t sequence, int32_t id) {
  const model::SequenceChunk chunk{sequence, cache_->length(sequence), {&id, 1}};
  cache_->extend(sequence, 1);
  const int64_t only_row = 0;
  const Tensor logits = pass_->forward({&chunk, 1}, *cache_, {&only_row, 1});
  cache_->release_before(sequence, cache_->length(sequence));
  return logits;
}

// Takes a sampled id: text goes out, and the request ends where it must.
void Engine::accept(Running& running, int32_t id, const tokenizer::Tokenizer& tokenizer,
                    const EngineCallbacks& callbacks) {
  Completion& completion = running.completion;
  const auto show = [&](std::string_view text) {
    completion.text += text;
    if (callbacks.on_text && !text.empty()) callbacks.on_text(running.index, text);
  };
  completion.ids.push_back(id);
  const auto& ends = running.request.end_ids;
  const bool is_end =
      tokenizer.is_end_of_generation(id) || std::find(ends.begin(), ends.end(), id) != ends.end();
  if (!running.request.ignore_end_of_text && is_end) {
    completion.reason = FinishReason::kEndOfText;
    running.finished = true;
  } else {
    show(running.stops.push(running.decoder.push(id)));
    if (running.stops.stopped()) {
      completion.reason = FinishReason::kStopString;
      running.finished = true;
    } else if (static_cast<int64_t>(completion.ids.size()) >= running.request.max_new_tokens) {
      completion.reason = FinishReason::kLength;
      running.finished = true;
    }
  }
  if (running.finished && !running.stops.stopped()) {
    show(running.stops.push(running.decoder.finish()));
    show(running.stops.finish());
  }
}

void Engine::note_cache() {
  stats_.kv_bytes_in_use = cache_->bytes_in_use();
  stats_.kv_bytes_peak = cache_->peak_bytes_in_use();
  stats_.kv_bytes_all_full = cache_->all_full_bytes();
  stats_.kv_bytes_all_full_peak = std::max(stats_.kv_bytes_all_full_peak, stats_.kv_bytes_all_full);
  stats_.kv_bytes_allocated = cache_->bytes_allocated();
  stats_.kv_bytes_reserved = cache_->bytes_reserved();
}

// What one call of generate() works on.
struct Engine::Batch {
  std::span<const Request> requests;
  const tokenizer::Tokenizer& tokenizer;
  const EngineCallbacks& callbacks;
  int64_t prompt_total = 0, prefilled = 0;
  size_t next = 0;                                // the first request that has not been started
  std::vector<std::unique_ptr<Running>> running;  // in order of their start
  std::vector<Completion> completions;

  bool cancelled() const { return callbacks.cancelled && callbacks.cancelled(); }

  // Takes the requests that have finished out of the batch, or all of them.
  void retire(bool all = false) {
    for (auto& r : running) {
      if (r->finished || all) completions[r->index] = std::move(r->completion);
    }
    std::erase_if(running, [&](const auto& r) { return r->finished || all; });
  }
};

void Engine::check(std::span<const Request> requests) const {
  const int64_t limit = position_limit(config_, options_);
  for (size_t i = 0; i < requests.size(); ++i) {
    const auto prompt = static_cast<int64_t>(requests[i].prompt.size());
    const int64_t new_tokens = requests[i].max_new_tokens;
    require(prompt >= 1, "prompt {} is empty; give at least one token", i + 1);
    require(new_tokens >= 1, "prompt {}: {} new tokens; ask for at least 1", i + 1, new_tokens);
    require(new_tokens <= limit && prompt <= limit - new_tokens,
            "prompt {} has {} tokens and asks for {} more, but the context was set to {}", i + 1,
            prompt, new_tokens, limit);
  }
}

// Starts the next request: its prompt and its first token. False when cancelled.
bool Engine::start_next(Batch& batch) {
  const Request& request = batch.requests[batch.next];
  batch.running.push_back(std::make_unique<Running>(request, batch.next, batch.tokenizer));
  Running& r = *batch.running.back();
  r.sequence.emplace(*cache_);
  const auto on_done = [&](int64_t done) {
    if (batch.callbacks.on_prefill)
      batch.callbacks.on_prefill(batch.prefilled + done, batch.prompt_total);
  };
  const Tensor logits =
      prefill(r.sequence->id(), request.prompt, on_done, batch.callbacks.cancelled);
  if (!logits.defined()) return false;
  batch.prefilled += static_cast<int64_t>(request.prompt.size());
  ++batch.next;
  note_cache();
  accept(r, r.sampler.sample(row(on_host(logits), 0), 0), batch.tokenizer, batch.callbacks);
  return true;
}

// One more token for every running request.
void Engine::step(Batch& batch) {
  const double start = monotonic_seconds();
  std::vector<model::SequenceChunk> chunks;
  std::vector<int64_t> rows(batch.running.size());
  std::iota(rows.begin(), rows.end(), 0);
  for (const auto& r : batch.running) {
    chunks.push_back(
        {r->sequence->id(), cache_->length(r->sequence->id()), {&r->completion.ids.back(), 1}});
    cache_->extend(r->sequence->id(), 1);
  }
  const Tensor logits = on_host(pass_->forward(chunks, *cache_, rows));
  for (const auto& r : batch.running) {
    cache_->release_before(r->sequence->id(), cache_->length(r->sequence->id()));
  }
  note_cache();
  for (size_t i = 0; i < batch.running.size(); ++i) {
    Running& r = *batch.running[i];
    const auto tokens = static_cast<int64_t>(r.completion.ids.size());
    accept(r, r.sampler.sample(row(logits, static_cast<int64_t>(i)), tokens), batch.tokenizer,
           batch.callbacks);
  }
  stats_.decode_tokens += static_cast<int64_t>(batch.running.size());
  stats_.decode_seconds += monotonic_seconds() - start;
}

std::vector<Completion> Engine::generate(std::span<const Request> requests,
                                         const tokenizer::Tokenizer& tokenizer,
                                         const EngineCallbacks& callbacks) {
  check(requests);
  stats_ = {};
  cache_->reset_peak();
  Batch batch{.requests = requests, .tokenizer = tokenizer, .callbacks = callbacks};
  batch.completions.resize(requests.size());
  for (const Request& request : requests) {
    batch.prompt_total += static_cast<int64_t>(request.prompt.size());
  }
  bool going = true;
  while (going && (batch.next < requests.size() || !batch.running.empty())) {
    while (going && batch.next < requests.size() &&
           static_cast<int64_t>(batch.running.size()) < options_.max_batch) {
      going = start_next(batch);
    }
    batch.retire();
    going = going && !batch.cancelled();
    if (going && !batch.running.empty()) {
      step(batch);
      batch.retire();
    }
  }
  batch.retire(true);
  return std::move(batch.completions);
}

std::vector<float> Engine::score(std::span<const int32_t> ids, const EngineCallbacks& callbacks) {
  const auto total = static_cast<int64_t>(ids.size());
  require(total <= position_limit(config_, options_),
          "the text has {} tokens, but the context was set to {}", total,
          position_limit(config_, options_));
  stats_ = {};
  cache_->reset_peak();
  const double start = monotonic_seconds();
  std::vector<float> log_probabilities;
  const SequenceHandle sequence(*cache_);
  // The last token predicts nothing: it need not run.
  for (int64_t begin = 0; begin + 1 < total; begin += options_.score_rows) {
    if (callbacks.cancelled && callbacks.cancelled()) break;
    const int64_t count = std::min(options_.score_rows, total - 1 - begin);
    const auto first = static_cast<size_t>(begin), size = static_cast<size_t>(count);
    const model::SequenceChunk chunk{sequence.id(), begin, ids.subspan(first, size)};
    std::vector<int64_t> rows(size);
    std::iota(rows.begin(), rows.end(), 0);
    cache_->extend(sequence.id(), count);
    const Tensor logits = pass_->forward({&chunk, 1}, *cache_, rows);
    append_log_probabilities(log_probabilities, logits, ids.subspan(first + 1, size));
    cache_->release_before(sequence.id(), cache_->length(sequence.id()));
    note_cache();
    if (callbacks.on_prefill) callbacks.on_prefill(begin + count + 1, total);
  }
  stats_.prefill_tokens = static_cast<int64_t>(log_probabilities.size());
  stats_.prefill_seconds = monotonic_seconds() - start;
  return log_probabilities;
}

}  // namespace longgen::infer
