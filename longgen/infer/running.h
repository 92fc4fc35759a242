// A request while it runs: what Engine and Session share.
#pragma once

#include <optional>
#include <vector>

#include "longgen/infer/engine.h"
#include "longgen/infer/stop_strings.h"

namespace longgen::infer {

// A sequence of the cache; its pages go back however the work on it ends.
class SequenceHandle {
 public:
  explicit SequenceHandle(KvCache& cache) : cache_(cache), id_(cache.add_sequence()) {}
  ~SequenceHandle() { cache_.remove_sequence(id_); }
  SequenceHandle(const SequenceHandle&) = delete;
  SequenceHandle& operator=(const SequenceHandle&) = delete;
  int64_t id() const { return id_; }

 private:
  KvCache& cache_;
  int64_t id_;
};

struct Engine::Running {
  Running(const Request& r, size_t i, const tokenizer::Tokenizer& tokenizer)
      : request(r),
        index(i),
        sampler(r.sampling, i),
        decoder(tokenizer, {.skip_special = true, .continuation = true}),
        stops(r.stop) {}

  const Request& request;
  size_t index;
  Sampler sampler;
  tokenizer::StreamDecoder decoder;
  StopStrings stops;
  std::optional<SequenceHandle> sequence;  // a session brings its own
  Completion completion;
  bool finished = false;
};

// Row i of logits that may be f64 (the reference backend's).
inline std::vector<float> row(const Tensor& logits, int64_t i) {
  const int64_t begin = i * logits.stride(0), vocab = logits.dim(1);
  if (logits.dtype() == DType::kF64) {
    const double* values = logits.data<double>() + begin;
    return {values, values + vocab};
  }
  const float* values = logits.data<float>() + begin;
  return {values, values + vocab};
}

}  // namespace longgen::infer
