#include "longgen/infer/session.h"

#include <algorithm>

#include "longgen/base/error.h"
#include "longgen/base/system.h"
#include "longgen/infer/running.h"
#include "longgen/model/needed_rows.h"

namespace longgen::infer {

Session::Session(Engine& engine) : engine_(engine), sequence_(engine.cache_->add_sequence()) {}
Session::~Session() { engine_.cache_->remove_sequence(sequence_); }

int64_t Session::max_tokens() const {
  const int64_t limit = engine_.options_.max_tokens;
  return limit > 0 ? limit : engine_.config_.max_position_embeddings;
}

void Session::clear() {
  engine_.cache_->truncate(sequence_, 0);
  ids_.clear();
  asked_from_ = 0;
}

Reuse Session::reuse(std::span<const int32_t> prompt) const {
  const auto end = std::mismatch(prompt.begin(), prompt.end(), ids_.begin(), ids_.end());
  Reuse reuse{.common = end.first - prompt.begin()};
  const auto most = std::min(reuse.common, static_cast<int64_t>(prompt.size()) - 1);
  reuse.kept = engine_.cache_->usable_prefix(sequence_, std::max<int64_t>(most, 0));
  const int64_t asks_from = static_cast<int64_t>(prompt.size()) - 1;
  if (!model::needs_no_more_rows(engine_.config_, asked_from_, asks_from)) reuse.kept = 0;
  return reuse;
}

std::vector<float> Session::read(std::span<const int32_t> prompt,
                                 const EngineCallbacks& callbacks) {
  require(!prompt.empty(), "the prompt is empty; give at least one token");
  require(static_cast<int64_t>(prompt.size()) <= max_tokens(),
          "the conversation has {} tokens, but the context was set to {}", prompt.size(),
          max_tokens());
  const int64_t kept = reuse(prompt).kept;
  engine_.cache_->truncate(sequence_, kept);
  ids_.resize(static_cast<size_t>(kept));  // true also if reading fails
  asked_from_ = static_cast<int64_t>(prompt.size()) - 1;
  const auto rest = prompt.subspan(static_cast<size_t>(kept));
  const auto on_done = [&](int64_t done) {
    if (callbacks.on_prefill) callbacks.on_prefill(done, static_cast<int64_t>(rest.size()));
  };
  const Tensor logits = engine_.prefill(sequence_, rest, on_done, callbacks.cancelled);
  const int64_t length = engine_.cache_->length(sequence_);
  ids_.assign(prompt.begin(), prompt.begin() + length);
  engine_.note_cache();
  return logits.defined() ? row(engine_.on_host(logits), 0) : std::vector<float>();
}

Completion Session::complete(const Request& request, const tokenizer::Tokenizer& tokenizer,
                             const EngineCallbacks& callbacks) {
  engine_.check({&request, 1});
  engine_.stats_ = {};
  engine_.cache_->reset_peak();
  const auto cancelled = [&] { return callbacks.cancelled && callbacks.cancelled(); };
  Engine::Running running(request, 0, tokenizer);
  std::vector<float> logits = read(request.prompt, callbacks);
  if (logits.empty()) return running.completion;
  const double start = monotonic_seconds();
  while (true) {
    const auto step = static_cast<int64_t>(running.completion.ids.size());
    engine_.accept(running, running.sampler.sample(logits, step), tokenizer, callbacks);
    if (running.finished || cancelled()) break;
    const int32_t id = running.completion.ids.back();
    const Tensor next = engine_.on_host(engine_.decode(sequence_, id));
    ids_.push_back(id);
    logits = row(next, 0);
    engine_.note_cache();
    ++engine_.stats_.decode_tokens;
  }
  engine_.stats_.decode_seconds += monotonic_seconds() - start;
  return running.completion;
}

}  // namespace longgen::infer
