#include "longgen/infer/engine.h"

#include <algorithm>
#include <deque>
#include <numeric>

#include "longgen/base/checked.h"
#include "longgen/base/error.h"
#include "longgen/base/system.h"
#include "longgen/infer/stop_strings.h"

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

std::span<const float> row(const Tensor& logits, int64_t i) {
  return {logits.data<float>() + i * logits.stride(0), static_cast<size_t>(logits.dim(1))};
}

}  // namespace

std::string_view finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kEndOfText: return "end_of_text";
    case FinishReason::kStopString: return "stop";
    case FinishReason::kLength: break;
  }
  return "length";
}

// A request that has its place in the batch.
struct Engine::Running {
  Running(const Request& r, size_t i, int64_t s, const tokenizer::Tokenizer& tokenizer)
      : request(r), index(i), sequence(s), sampler(r.sampling, i),
        decoder(tokenizer, {.skip_special = true, .continuation = true}), stops(r.stop) {}

  const Request& request;
  size_t index;
  int64_t sequence;
  Sampler sampler;
  tokenizer::StreamDecoder decoder;
  StopStrings stops;
  Completion completion;
  bool finished = false;
};

Engine::Engine(const model::ModelConfig& config, const model::ParameterSet& weights,
               Backend& backend, const EngineOptions& options)
    : config_(config), backend_(backend), options_(options) {
  require(options.chunk >= 1 && options.max_batch >= 1 && options.score_rows >= 1,
          "engine: chunk {}, batch {} and score rows {} must be at least 1", options.chunk,
          options.max_batch, options.score_rows);
  const int64_t limit = position_limit(config, options);
  cache_ = std::make_unique<KvCache>(config, weights.dtype(), options.max_batch, limit,
                                     backend.memory());
  pass_ = std::make_unique<model::IncrementalPass>(config, weights, backend, most_rows(options),
                                                   most_logit_rows(options), limit, backend.memory());
}

Engine::~Engine() = default;

EnginePlan Engine::plan(const model::ModelConfig& config, DType dtype, Backend& backend,
                        const EngineOptions& options) {
  NoMemory nothing;
  const model::ParameterSet weights("weights", config, dtype, nothing);
  const int64_t limit = position_limit(config, options);
  const model::IncrementalPass pass(config, weights, backend, most_rows(options),
                                    most_logit_rows(options), limit, nothing);
  EnginePlan plan;
  plan.workspace = pass.arena().high_water_bytes();
  // At the last chunk the pages of what is still visible and those of the chunk stand together.
  const int64_t chunk = std::min(options.chunk, limit);
  const int64_t chunk_pages = kv_bytes(config, dtype, chunk).all_full;
  plan.kv_peak = options.max_batch * (kv_bytes(config, dtype, limit).live + chunk_pages);
  return plan;
}

Tensor Engine::prefill(int64_t sequence, std::span<const int32_t> prompt,
                       const std::function<void(int64_t)>& on_done) {
  const double start = monotonic_seconds();
  Tensor logits;
  const auto total = static_cast<int64_t>(prompt.size());
  for (int64_t begin = 0; begin < total; begin += options_.chunk) {
    const int64_t count = std::min(options_.chunk, total - begin);
    const model::SequenceChunk chunk{sequence, begin,
                                     prompt.subspan(static_cast<size_t>(begin), static_cast<size_t>(count))};
    cache_->extend(sequence, count);
    const bool last = begin + count == total;
    const int64_t last_row = count - 1;
    logits = pass_->forward({&chunk, 1}, *cache_,
                            last ? std::span<const int64_t>(&last_row, 1) : std::span<const int64_t>());
    cache_->release_before(sequence, cache_->length(sequence));
    if (on_done) on_done(begin + count);
  }
  stats_.prefill_tokens += total;
  stats_.prefill_seconds += monotonic_seconds() - start;
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
  if (!running.request.ignore_end_of_text && tokenizer.is_end_of_generation(id)) {
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
}

std::vector<Completion> Engine::generate(std::span<const Request> requests,
                                         const tokenizer::Tokenizer& tokenizer,
                                         const EngineCallbacks& callbacks) {
  const int64_t limit = position_limit(config_, options_);
  int64_t prompt_total = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    const auto prompt = static_cast<int64_t>(requests[i].prompt.size());
    require(prompt >= 1, "prompt {} is empty; give at least one token", i + 1);
    require(requests[i].max_new_tokens >= 1, "prompt {}: {} new tokens; ask for at least 1", i + 1,
            requests[i].max_new_tokens);
    require(requests[i].max_new_tokens <= limit && prompt <= limit - requests[i].max_new_tokens,
            "prompt {} has {} tokens and asks for {} more, but the context was set to {}", i + 1, prompt,
            requests[i].max_new_tokens, limit);
    prompt_total += prompt;
  }
  stats_ = {};
  std::vector<Completion> completions(requests.size());
  std::vector<std::unique_ptr<Running>> running;
  size_t next = 0;
  int64_t prefilled = 0;
  const auto retire = [&] {
    for (auto& r : running) {
      if (!r->finished) continue;
      cache_->remove_sequence(r->sequence);
      completions[r->index] = std::move(r->completion);
    }
    std::erase_if(running, [](const auto& r) { return r->finished; });
  };

  while ((next < requests.size() || !running.empty()) &&
         !(callbacks.cancelled && callbacks.cancelled())) {
    while (next < requests.size() && static_cast<int64_t>(running.size()) < options_.max_batch) {
      running.push_back(std::make_unique<Running>(requests[next], next, cache_->add_sequence(), tokenizer));
      Running& r = *running.back();
      const Tensor logits = prefill(r.sequence, r.request.prompt, [&](int64_t done) {
        if (callbacks.on_prefill) callbacks.on_prefill(prefilled + done, prompt_total);
      });
      prefilled += static_cast<int64_t>(r.request.prompt.size());
      note_cache();
      accept(r, r.sampler.sample(row(logits, 0), 0), tokenizer, callbacks);
      ++next;
    }
    retire();
    if (running.empty()) continue;

    const double start = monotonic_seconds();
    std::vector<model::SequenceChunk> chunks;
    std::vector<int64_t> rows(running.size());
    std::iota(rows.begin(), rows.end(), 0);
    for (const auto& r : running) {
      chunks.push_back({r->sequence, cache_->length(r->sequence), {&r->completion.ids.back(), 1}});
      cache_->extend(r->sequence, 1);
    }
    const Tensor logits = pass_->forward(chunks, *cache_, rows);
    for (const auto& r : running) cache_->release_before(r->sequence, cache_->length(r->sequence));
    note_cache();
    for (size_t i = 0; i < running.size(); ++i) {
      const auto step = static_cast<int64_t>(running[i]->completion.ids.size());
      accept(*running[i], running[i]->sampler.sample(row(logits, static_cast<int64_t>(i)), step),
             tokenizer, callbacks);
    }
    stats_.decode_tokens += static_cast<int64_t>(running.size());
    stats_.decode_seconds += monotonic_seconds() - start;
    retire();
  }
  for (auto& r : running) r->finished = true;  // cancelled: what there is
  retire();
  return completions;
}

std::vector<float> Engine::score(std::span<const int32_t> ids, const EngineCallbacks& callbacks) {
  const auto total = static_cast<int64_t>(ids.size());
  require(total <= position_limit(config_, options_), "the text has {} tokens, but the context was set to {}",
          total, position_limit(config_, options_));
  stats_ = {};
  const double start = monotonic_seconds();
  std::vector<float> log_probabilities;
  const int64_t sequence = cache_->add_sequence();
  for (int64_t begin = 0; begin + 1 < total; begin += options_.score_rows) {
    const int64_t count = std::min(options_.score_rows, total - begin);
    const model::SequenceChunk chunk{sequence, begin,
                                     ids.subspan(static_cast<size_t>(begin), static_cast<size_t>(count))};
    std::vector<int64_t> rows(static_cast<size_t>(count));
    std::iota(rows.begin(), rows.end(), 0);
    std::vector<int32_t> labels(static_cast<size_t>(count), -1);
    for (int64_t i = 0; i < count && begin + i + 1 < total; ++i) {
      labels[static_cast<size_t>(i)] = ids[static_cast<size_t>(begin + i + 1)];
    }
    cache_->extend(sequence, count);
    const Tensor logits = pass_->forward({&chunk, 1}, *cache_, rows);
    std::vector<float> losses(static_cast<size_t>(count));
    backend_.softmax_cross_entropy(Tensor::of(std::span(losses)), Tensor(), logits,
                                   Tensor::of(std::span(labels)), 1);
    for (int64_t i = 0; i < count && begin + i + 1 < total; ++i) {
      log_probabilities.push_back(-losses[static_cast<size_t>(i)]);
    }
    cache_->release_before(sequence, cache_->length(sequence));
    note_cache();
    if (callbacks.on_prefill) callbacks.on_prefill(begin + count, total);
    if (callbacks.cancelled && callbacks.cancelled()) break;
  }
  cache_->remove_sequence(sequence);
  stats_.prefill_tokens = total;
  stats_.prefill_seconds = monotonic_seconds() - start;
  return log_probabilities;
}

}  // namespace longgen::infer
