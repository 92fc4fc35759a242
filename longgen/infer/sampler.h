// From logits to a token.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace longgen::infer {

// Filters apply in this order, each to what the one before left: temperature, top_k, top_p, min_p.
struct SamplingParams {
  double temperature = 0;  // 0: greedy, the lowest id among equals
  int64_t top_k = 0;       // 0: off
  double top_p = 1;        // the smallest set of most likely tokens whose probability reaches top_p
  double min_p = 0;        // drops tokens less likely than min_p times the most likely one
  uint64_t seed = 0;

  // Throws UsageError naming the parameter.
  void validate() const;
};

class Sampler {
 public:
  // `stream` tells sequences apart that share a seed.
  Sampler(const SamplingParams& params, uint64_t stream);

  // The token of step `step` (its random number depends on seed, stream and step alone). Throws
  // Error when a logit is NaN or infinite, or all are minus infinity. logits [vocab].
  int32_t sample(std::span<const float> logits, int64_t step);

 private:
  SamplingParams params_;
  uint64_t stream_;
  std::vector<std::pair<float, int32_t>> candidates_;
};

}  // namespace longgen::infer
