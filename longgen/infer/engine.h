// Runs a model over a KV cache: scores texts, and completes several prompts in one batch.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "longgen/infer/kv_cache.h"
#include "longgen/infer/sampler.h"
#include "longgen/model/decoder.h"
#include "longgen/tokenizer/tokenizer.h"

namespace longgen::infer {

struct EngineOptions {
  int64_t chunk = 1024;      // prompt tokens a pass
  int64_t max_batch = 8;     // sequences that run at once
  int64_t max_tokens = 0;    // positions a sequence may reach; 0: the config's maximum
  int64_t score_rows = 256;  // rows whose logits exist at once while scoring
};

// kCancelled: generation was stopped from outside before or while the request ran.
enum class FinishReason : uint8_t { kEndOfText, kStopString, kLength, kCancelled };
std::string_view finish_reason_name(FinishReason reason);

struct Request {
  std::vector<int32_t> prompt;  // at least one id
  int64_t max_new_tokens = 128;
  SamplingParams sampling;
  std::vector<std::string> stop;
  bool ignore_end_of_text = false;  // generate max_new_tokens whatever comes
  std::vector<int32_t> end_ids;     // more ids that end the text, beside the tokenizer's
};

struct Completion {
  std::vector<int32_t> ids;  // generated, without the prompt
  std::string text;          // without special tokens and the stop string
  FinishReason reason = FinishReason::kCancelled;
};

struct EngineStats {
  int64_t prefill_tokens = 0,
          decode_tokens = 0;  // decode: tokens produced by steps after the first
  double prefill_seconds = 0, decode_seconds = 0;
  // At the last step: what the running sequences hold, and would hold were every layer full.
  int64_t kv_bytes_in_use = 0, kv_bytes_all_full = 0;
  int64_t kv_bytes_peak = 0, kv_bytes_all_full_peak = 0;  // the most of both
  int64_t kv_bytes_allocated = 0;  // what the cache took when the engine was made
  int64_t kv_bytes_reserved = 0;   // of it, pages that have been touched

  // Sums tokens and seconds, keeps the greater bytes.
  void add(const EngineStats& other);
};

struct EngineCallbacks {
  // Text of a request as it comes: whole UTF-8 characters.
  std::function<void(size_t request, std::string_view text)> on_text;
  // Prompt tokens done, of all.
  std::function<void(int64_t done, int64_t total)> on_prefill;
  // Polled between passes, prefill chunks included: true stops and returns what there is.
  std::function<bool()> cancelled;
};

// Bytes an engine will use: weights are not included.
struct EnginePlan {
  int64_t workspace = 0;  // activations, logits, tables
  int64_t kv_peak = 0;    // live pages of max_batch sequences at max_tokens, and one chunk
};

class Engine {
 public:
  // `weights` must hold config's parameters in a dtype that the backend supports; keys and values
  // are kept in it too.
  Engine(const model::ModelConfig& config, const model::ParameterSet& weights, Backend& backend,
         const EngineOptions& options);
  ~Engine();

  static EnginePlan plan(const model::ModelConfig& config, DType dtype, Backend& backend,
                         const EngineOptions& options);

  // One completion a request, in order. More requests than max_batch wait their turn.
  std::vector<Completion> generate(std::span<const Request> requests,
                                   const tokenizer::Tokenizer& tokenizer,
                                   const EngineCallbacks& callbacks = {});

  // Natural-log probability of ids[t + 1] given ids[0..t], for t = 0 .. size - 2.
  std::vector<float> score(std::span<const int32_t> ids, const EngineCallbacks& callbacks = {});

  const EngineStats& stats() const { return stats_; }
  const model::ModelConfig& config() const { return config_; }
  int64_t max_batch() const { return options_.max_batch; }

 private:
  friend class Session;
  struct Running;
  struct Batch;

  void check(std::span<const Request> requests) const;
  bool start_next(Batch& batch);
  void step(Batch& batch);
  // Continues the sequence. Logits of the last token [1, vocab]; undefined when cancelled.
  Tensor prefill(int64_t sequence, std::span<const int32_t> prompt,
                 const std::function<void(int64_t)>& on_done,
                 const std::function<bool()>& cancelled);
  // One more token of one sequence: its logits [1, vocab].
  Tensor decode(int64_t sequence, int32_t id);
  void accept(Running& running, int32_t id, const tokenizer::Tokenizer& tokenizer,
              const EngineCallbacks& callbacks);
  void note_cache();
  // The logits where the host reads them; valid until the next call.
  Tensor on_host(const Tensor& logits);
  // Appends the log-probabilities of `labels`, one a row of logits.
  void append_log_probabilities(std::vector<float>& out, const Tensor& logits,
                                std::span<const int32_t> labels);

  model::ModelConfig config_;
  Backend& backend_;
  EngineOptions options_;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<model::IncrementalPass> pass_;
  std::unique_ptr<Arena> score_arena_;
  Tensor labels_, losses_;              // [score_rows]
  std::vector<std::byte> host_logits_;  // empty where the backend computes on the host
  EngineStats stats_;
};

}  // namespace longgen::infer
