#include "longgen/backend/stochastic_rounding.h"

#include <bit>
#include <cmath>

#include "longgen/base/error.h"
#include "longgen/base/rng.h"

namespace longgen {
namespace {

constexpr uint64_t kSeedOfRounding = 0x726f756e64696e67;  // "rounding"
constexpr int64_t kMostTensors = int64_t{1} << 20;

}  // namespace

RoundingBits rounding_bits(const StochasticRounding& rounding, int64_t i) {
  const auto words = philox(rounding.seed, rounding.stream, static_cast<uint64_t>(i / 2));
  const uint32_t first = words[i % 2 * 2], second = words[i % 2 * 2 + 1];
  return {static_cast<uint16_t>(first), static_cast<uint16_t>(first >> 16),
          static_cast<uint16_t>(second)};
}

bf16 round_stochastically(float x, uint16_t bits) {
  if (std::isnan(x)) return bf16(x);
  bf16 rounded;
  rounded.bits = static_cast<uint16_t>((std::bit_cast<uint32_t>(x) + bits) >> 16);
  return rounded;
}

StochasticRounding rounding_of(uint64_t seed, int64_t update, int64_t tensor) {
  require(update >= 1 && tensor >= 0 && tensor < kMostTensors,
          "no rounding stream for update {} of tensor {}", update, tensor);
  return {seed ^ kSeedOfRounding, static_cast<uint64_t>(update * kMostTensors + tensor)};
}

}  // namespace longgen
