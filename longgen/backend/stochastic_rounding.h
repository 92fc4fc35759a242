// Stochastic rounding of f32 to bf16: up with the probability that makes the result right on
// average, so that many updates far below a bf16's spacing add up instead of being lost. Its random
// numbers are counters' (philox), so results do not depend on threads, and a run resumes by knowing
// its step.
#pragma once

#include <cstdint>

#include "longgen/backend/backend.h"
#include "longgen/tensor/dtype.h"

namespace longgen {

// What rounds element i of a weight and its two moments: of the four words r of
// philox(seed, stream, i / 2), r[0] and r[1] where i is even, r[2] and r[3] where it is odd. The
// weight takes the low half of the first, the first moment its high half, the second moment the low
// half of the second.
struct RoundingBits {
  uint16_t weight, m, v;
};
RoundingBits rounding_bits(const StochasticRounding& rounding, int64_t i);

// Adds `bits` below the last bit that bf16 has and drops the rest. NaN stays NaN.
bf16 round_stochastically(float x, uint16_t bits);

// The stream of one tensor in one update (1 is the first). Streams of different (update, tensor)
// differ; those of the seed as given belong to others (initial weights, shuffling), so the seed is
// another too.
StochasticRounding rounding_of(uint64_t seed, int64_t update, int64_t tensor);

}  // namespace longgen
