// Online softmax (Dao, arXiv 2307.08691) over a warpgroup's scores [64, 128] in accumulators.
#pragma once

#include <climits>

#include "longgen/backend/cuda/attention/hopper/key_walk.cuh"
#include "longgen/backend/cuda/attention/hopper/wgmma.cuh"

namespace longgen::cuda::hopper {

inline constexpr float kLog2E = 1.4426950408889634f;

__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Of the two rows (lane / 4 and 8 below) of which a thread has a quarter: a maximum of the scores
// so far, this thread's part of the sum of exponentials, and the least score, as an integer, that
// exceed() reports.
struct RowState {
  float top[2], sum[2];
  int limit[2];
};
__device__ inline RowState no_scores_yet() {
  return {{-INFINITY, -INFINITY}, {0, 0}, {INT_MIN, INT_MIN}};
}

// Scores of pairs that are not visible become -inf: of one key block, of which a query block sees
// none, all, or up to the diagonal.
__device__ inline void mask_block(float* scores, bool seen, bool diagonal) {
  const int lane = threadIdx.x % 32;
  const int row = threadIdx.x % kWarpgroup / 32 * 16 + lane / 4;
#pragma unroll
  for (int lower = 0; lower < 2; ++lower) {
    const int last = seen ? (diagonal ? row + 8 * lower : kBlock - 1) : -1;
    const int mine = last - lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < kBlock / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& score = scores[n * 4 + lower * 2 + i];
        if (n * 8 + i > mine) score = -INFINITY;
      }
    }
  }
}
__device__ inline void mask_scores(float (&scores)[64], int bits) {
  if ((bits & (kSeesFirst | kFirstIsDiagonal)) != kSeesFirst) {
    mask_block(scores, bits & kSeesFirst, bits & kFirstIsDiagonal);
  }
  if ((bits & (kSeesSecond | kSecondIsDiagonal)) != kSeesSecond) {
    mask_block(scores + 32, bits & kSeesSecond, bits & kSecondIsDiagonal);
  }
}

// A maximum stays until exponentials would exceed 2^kPatience: sums in f32 and probabilities in
// bf16 have the range, and earlier sums hardly ever need another scale.
inline constexpr float kPatience = 8;

// New maxima of the rows; `shrink` is what earlier sums are to be multiplied by. Every row has seen
// a key by the end of its first step, so no maximum is -inf.
template <int kCount>
__device__ void raise_tops(const float (&scores)[kCount], RowState& state, float (&shrink)[2],
                           float scale_log2) {
  // Several chains for each row: one alone would wait for itself.
  constexpr int kChains = 4;
  float highest[2][kChains];
#pragma unroll
  for (int i = 0; i < 2 * kChains; ++i) {
    highest[i % 2][i / 2] = fmaxf(scores[i / 2 * 4 + i % 2 * 2], scores[i / 2 * 4 + i % 2 * 2 + 1]);
  }
#pragma unroll
  for (int n = kChains; n < kCount / 4; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      highest[i / 2][n % kChains] = fmaxf(highest[i / 2][n % kChains], scores[n * 4 + i]);
    }
  }
#pragma unroll
  for (int lower = 0; lower < 2; ++lower) {
    float top = fmaxf(fmaxf(highest[lower][0], highest[lower][1]),
                      fmaxf(highest[lower][2], highest[lower][3]));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
    top = fmaxf(top, state.top[lower]);
    if ((top - state.top[lower]) * scale_log2 <= kPatience) top = state.top[lower];
    shrink[lower] = exp2_fast((state.top[lower] - top) * scale_log2);
    state.top[lower] = top;
    state.sum[lower] *= shrink[lower];
    const float limit = top + __fdividef(kPatience, scale_log2);
    state.limit[lower] = limit >= 0 ? __float_as_int(limit) : INT_MIN;
  }
}

// Whether a row of the warp has a score for which raise_tops() might change a maximum: half of its
// instructions, and no waiting for other threads' maxima. Floats from 0 up are in order as
// integers, and above all negative ones, so that the instruction for the maximum of three integers
// serves; with a negative limit everything is reported.
template <int kCount>
__device__ bool exceed(const float (&scores)[kCount], const RowState& state) {
  constexpr int kChains = 2;
  int highest[2][kChains] = {{INT_MIN, INT_MIN}, {INT_MIN, INT_MIN}};
#pragma unroll
  for (int lower = 0; lower < 2; ++lower) {
#pragma unroll
    for (int n = 0; n < kCount / 4; ++n) {
      int& high = highest[lower][n % kChains];
      high = __vimax3_s32(high, __float_as_int(scores[n * 4 + lower * 2]),
                          __float_as_int(scores[n * 4 + lower * 2 + 1]));
    }
  }
  return __any_sync(0xffffffffu, max(highest[0][0], highest[0][1]) >= state.limit[0] ||
                                     max(highest[1][0], highest[1][1]) >= state.limit[1]);
}

// Scores become exponentials relative to the maxima, and are added to the sums.
template <int kCount>
__device__ void exponentials(float (&scores)[kCount], RowState& state, float scale_log2) {
  const float base[2] = {state.top[0] * scale_log2, state.top[1] * scale_log2};
  float sums[2][2] = {};
#pragma unroll
  for (int n = 0; n < kCount / 4; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      scores[n * 4 + i] = exp2_fast(fmaf(scores[n * 4 + i], scale_log2, -base[i / 2]));
      sums[i / 2][i % 2] += scores[n * 4 + i];
    }
  }
#pragma unroll
  for (int lower = 0; lower < 2; ++lower) state.sum[lower] += sums[lower][0] + sums[lower][1];
}

}  // namespace longgen::cuda::hopper
