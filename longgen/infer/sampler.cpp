#include "longgen/infer/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "longgen/base/error.h"
#include "longgen/base/rng.h"

namespace longgen::infer {
namespace {

// More likely first; the lower id among equals.
bool more_likely(const std::pair<float, int32_t>& a, const std::pair<float, int32_t>& b) {
  return a.first > b.first || (a.first == b.first && a.second < b.second);
}

// Throws Error at NaN and at infinity (minus infinity rules a token out): whatever was drawn beside
// them would be made up.
int32_t arg_max(std::span<const float> logits) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  int32_t best = -1;
  float value = -kInfinity;
  for (size_t i = 0; i < logits.size(); ++i) {
    require(logits[i] < kInfinity,
            "the model's logit of token {} is {}; its weights are damaged or overflow", i,
            logits[i]);
    if (logits[i] > value) {
      value = logits[i];
      best = static_cast<int32_t>(i);
    }
  }
  require(best >= 0,
          "the model's logits hold no finite number; its weights are damaged or overflow");
  return best;
}

}  // namespace

void SamplingParams::validate() const {
  if (!(temperature >= 0 && temperature <= 100)) {
    fail_usage("--temperature {}: use 0 (greedy) to 100", temperature);
  }
  if (top_k < 0) fail_usage("--top-k {}: use 0 (off) or more", top_k);
  if (!(top_p > 0 && top_p <= 1)) fail_usage("--top-p {}: use more than 0, up to 1", top_p);
  if (!(min_p >= 0 && min_p <= 1)) fail_usage("--min-p {}: use 0 to 1", min_p);
}

Sampler::Sampler(const SamplingParams& params, uint64_t stream) : params_(params), stream_(stream) {
  params_.validate();
}

int32_t Sampler::sample(std::span<const float> logits, int64_t step) {
  const int32_t best = arg_max(logits);
  if (params_.temperature == 0) return best;

  // Likelihoods relative to the best token's; those that vanish in f32 are no candidates.
  const float top = logits[static_cast<size_t>(best)];
  const auto scale = static_cast<float>(1 / params_.temperature);
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    const float weight = std::exp((logits[i] - top) * scale);
    if (weight > 0) candidates_.push_back({weight, static_cast<int32_t>(i)});
  }
  if (params_.top_k > 0 && params_.top_k < static_cast<int64_t>(candidates_.size())) {
    std::nth_element(candidates_.begin(), candidates_.begin() + params_.top_k, candidates_.end(),
                     more_likely);
    candidates_.resize(static_cast<size_t>(params_.top_k));
  }
  std::sort(candidates_.begin(), candidates_.end(), more_likely);

  double total = 0;
  for (const auto& candidate : candidates_) total += candidate.first;
  size_t count = candidates_.size();
  if (params_.top_p < 1) {
    double sum = 0;
    for (count = 0; count < candidates_.size() && sum < params_.top_p * total; ++count) {
      sum += candidates_[count].first;
    }
  }
  while (count > 1 && candidates_[count - 1].first < params_.min_p * candidates_[0].first) --count;

  total = 0;
  for (size_t i = 0; i < count; ++i) total += candidates_[i].first;
  double rest = Rng(params_.seed, stream_, static_cast<uint64_t>(step) * 2).uniform() * total;
  for (size_t i = 0; i + 1 < count; ++i) {
    rest -= candidates_[i].first;
    if (rest < 0) return candidates_[i].second;
  }
  return candidates_[count - 1].second;
}

}  // namespace longgen::infer
