// Rotary tables. The formulas and their names are those of Transformers' modeling_rope_utils.py.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "longgen/base/checked.h"
#include "longgen/base/error.h"
#include "longgen/model/config.h"

namespace longgen::model {
namespace {

// Llama 3: long wavelengths are stretched by `factor`, short ones kept, those between interpolated.
double llama3_frequency(const RopeConfig& rope, double frequency) {
  const double wavelength = 2 * std::numbers::pi / frequency;
  const auto old = static_cast<double>(rope.original_max_position_embeddings);
  if (wavelength < old / rope.high_freq_factor) return frequency;
  if (wavelength > old / rope.low_freq_factor) return frequency / rope.factor;
  const double smooth =
      (old / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return (1 - smooth) * frequency / rope.factor + smooth * frequency;
}

// YaRN (Peng et al., arXiv 2309.00071): a ramp over the channels between those that turn beta_fast
// and beta_slow times within the original length.
std::vector<double> yarn_frequencies(const RopeConfig& rope, std::vector<double> frequencies) {
  const auto dim = static_cast<double>(2 * frequencies.size());
  const auto old = static_cast<double>(rope.original_max_position_embeddings);
  const auto correction = [&](double rotations) {
    return dim * std::log(old / (rotations * 2 * std::numbers::pi)) / (2 * std::log(rope.theta));
  };
  const double low = std::max(std::floor(correction(rope.beta_fast)), 0.0);
  double high = std::min(std::ceil(correction(rope.beta_slow)), dim - 1);
  if (low == high) high += 0.001;  // no division by zero
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    frequencies[i] = frequencies[i] / rope.factor * ramp + frequencies[i] * (1 - ramp);
  }
  return frequencies;
}

std::vector<double> frequencies(const RopeConfig& rope, int64_t rotary_dim) {
  std::vector<double> result(static_cast<size_t>(rotary_dim / 2));
  for (size_t i = 0; i < result.size(); ++i) {
    double& f = result[i];
    f = std::pow(rope.theta, -(2.0 * static_cast<double>(i) / static_cast<double>(rotary_dim)));
    if (rope.kind == RopeKind::kLinear) f /= rope.factor;
    if (rope.kind == RopeKind::kLlama3) f = llama3_frequency(rope, f);
  }
  return rope.kind == RopeKind::kYarn ? yarn_frequencies(rope, std::move(result)) : result;
}

double attention_factor(const RopeConfig& rope) {
  if (rope.kind != RopeKind::kYarn) return 1;
  if (rope.attention_factor) return *rope.attention_factor;
  return rope.factor <= 1 ? 1 : 0.1 * std::log(rope.factor) + 1;
}

}  // namespace

std::vector<float> rope_table(const RopeConfig& rope, int64_t rotary_dim, int64_t positions) {
  require(rotary_dim > 0 && rotary_dim % 2 == 0 && positions >= 0,
          "rope table of {} channels and {} positions", rotary_dim, positions);
  const std::vector<double> frequency = frequencies(rope, rotary_dim);
  const double factor = attention_factor(rope);
  const size_t half = frequency.size();
  std::vector<float> table(static_cast<size_t>(checked_mul(positions, rotary_dim)));
  for (int64_t p = 0; p < positions; ++p) {
    float* row = table.data() + p * rotary_dim;
    for (size_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(p) * frequency[i];
      row[i] = static_cast<float>(std::cos(angle) * factor);
      row[half + i] = static_cast<float>(std::sin(angle) * factor);
    }
  }
  return table;
}

double extended_rope_theta(double theta, int64_t old_length, int64_t new_length) {
  require(theta > 0 && old_length > 0 && new_length > 0,
          "extending theta {} from {} to {} positions", theta, old_length, new_length);
  return theta * std::pow(static_cast<double>(new_length) / static_cast<double>(old_length), 1.8);
}

}  // namespace longgen::model
