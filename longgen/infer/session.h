// A conversation: one sequence whose cache stays between calls, so that each call reads only what
// is new.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "longgen/infer/engine.h"

namespace longgen::infer {

// How much of a prompt the cache holds.
struct Reuse {
  int64_t common = 0;  // leading ids that were read before
  // Of them, those that need not be read again: all, but for the prompt's last id (its logits are
  // wanted), or fewer where sparse layers have given back pages that a query there would see.
  int64_t kept = 0;
};

class Session {
 public:
  // Takes one of the engine's max_batch places. The engine outlives the session.
  explicit Session(Engine& engine);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Ids that stand in the cache.
  std::span<const int32_t> ids() const { return ids_; }
  // What read() and complete() would find.
  Reuse reuse(std::span<const int32_t> prompt) const;
  // Reads the prompt, at least one id, and gives the logits behind it [vocab]; empty when
  // cancelled, with the cache as far as it came. For any history of calls they are those of a fresh
  // reading of the whole prompt: bit for bit on the reference backend, elsewhere up to the order of
  // sums.
  std::vector<float> read(std::span<const int32_t> prompt, const EngineCallbacks& callbacks = {});
  // Completes the prompt, which is the whole conversation so far; a reply that was cancelled stays
  // in the cache as far as it came. Throws Error when prompt and new tokens exceed the context.
  // Engine::stats() tells of this call.
  Completion complete(const Request& request, const tokenizer::Tokenizer& tokenizer,
                      const EngineCallbacks& callbacks = {});
  // Forgets everything.
  void clear();

  // The most positions a conversation may have.
  int64_t max_tokens() const;

 private:
  Engine& engine_;
  int64_t sequence_;
  std::vector<int32_t> ids_;
  // The last position of the prompt that was read last: upper layers with windows hold the keys
  // that queries from it on need, and no more.
  int64_t asked_from_ = 0;
};

}  // namespace longgen::infer
