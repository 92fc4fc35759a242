// Online softmax (Dao, arXiv 2307.08691) over a warpgroup's scores [64, 128] in accumulators.
#pragma once

#include "longgen/backend/cuda/attention/hopper/key_walk.cuh"
#include "longgen/backend/cuda/attention/hopper/wgmma.cuh"

namespace longgen::cuda::hopper {

inline constexpr float kLog2E = 1.4426950408889634f;

__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Of the two rows (lane / 4 and 8 below) of which a thread has a quarter: the greatest score so
// far, and this thread's part of the sum of exponentials.
struct RowState {
  float top[2], sum[2];
};

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
// A step is wide, with two key blocks, or narrow, with the only one that is seen.
__device__ inline void mask_scores(float (&scores)[64], int bits) {
  mask_block(scores, bits & kSeesFirst, bits & kFirstIsDiagonal);
  mask_block(scores + 32, bits & kSeesSecond, bits & kSecondIsDiagonal);
}
__device__ inline void mask_scores(float (&scores)[32], int bits) {
  mask_block(scores, true, true);
}

// Scores become exponentials relative to the new maxima; `shrink` is what earlier sums are to be
// multiplied by. Every row has seen a key by the end of its first step, so no maximum is -inf.
// With kLazy > 0 a maximum stays until it is exceeded by a factor of more than 2^kLazy.
template <int kLazy, int kCount>
__device__ void exponentials(float (&scores)[kCount], RowState& state, float (&shrink)[2],
                             float scale_log2) {
#pragma unroll
  for (int lower = 0; lower < 2; ++lower) {
    float top = scores[lower * 2];
#pragma unroll
    for (int n = 0; n < kCount / 4; ++n) {
      top = fmaxf(top, fmaxf(scores[n * 4 + lower * 2], scores[n * 4 + lower * 2 + 1]));
    }
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
    top = fmaxf(top, state.top[lower]);
    if (kLazy > 0 && (top - state.top[lower]) * scale_log2 <= kLazy) top = state.top[lower];
    shrink[lower] = exp2_fast((state.top[lower] - top) * scale_log2);
    state.top[lower] = top;
    const float base = top * scale_log2;
    float sum = 0;
#pragma unroll
    for (int n = 0; n < kCount / 4; ++n) {
#pragma unroll
      for (int i = lower * 2; i < lower * 2 + 2; ++i) {
        scores[n * 4 + i] = exp2_fast(fmaf(scores[n * 4 + i], scale_log2, -base));
        sum += scores[n * 4 + i];
      }
    }
    state.sum[lower] = state.sum[lower] * shrink[lower] + sum;
  }
}

}  // namespace longgen::cuda::hopper
