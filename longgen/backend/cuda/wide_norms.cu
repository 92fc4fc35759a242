// Norms of wide_rows.h: a row is read once and stays in registers, spread over a warp (up to 1,024
// channels) or a block.
#include <algorithm>

#include "longgen/backend/cuda/dependent_launch.cuh"
#include "longgen/backend/cuda/wide_rows.cuh"
#include "longgen/backend/cuda/wide_rows.h"

namespace longgen::cuda {
namespace {

using Bf16 = __nv_bfloat16;
constexpr int kThreads = 256;

// The same sum in all kGroup threads of a row.
template <int kGroup>
__device__ float group_sum(float x, float* shared) {
  if constexpr (kGroup == 32) {
    return warp_sum(x);
  } else {
    return block_sum<kThreads>(x, shared);
  }
}

// The first channel of a thread's vector i.
template <int kGroup>
__device__ int64_t channel(int i) {
  return kVector * (static_cast<int64_t>(i) * kGroup + threadIdx.x % kGroup);
}

// A thread's pieces of a row, as they lie in memory.
template <int kGroup, int kVectors>
__device__ void fetch(uint4 (&to)[kVectors], const Rows& x, int64_t r) {
  const Bf16* from = row<Bf16>(x, r);
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int64_t c = channel<kGroup>(i);
    if (c < x.cols) to[i] = fetch8(from + c);
  }
}

// `each` rows one after the other by the same threads, the next on its way while one is summed up.
template <int kGroup, int kVectors>
__global__ void __launch_bounds__(kThreads, kVectors <= 2 ? 4 : 2)
    forward_kernel(bool layer, Rows out, float* stats, int64_t stats_stride, Rows x,
                   const Bf16* weight, const Bf16* bias, float eps, int each) {
  __shared__ float shared[kThreads / 32];
  let_next_start();
  wait_for_inputs();
  const int64_t group =
      static_cast<int64_t>(blockIdx.x) * (kThreads / kGroup) + threadIdx.x / kGroup;
  const int64_t first = group * each, end = first + each < x.rows ? first + each : x.rows;
  if (first >= end) return;  // a whole warp or block at once
  const float n = static_cast<float>(x.cols);
  uint4 weights[kVectors], next[kVectors];
  fetch<kGroup>(next, x, first);
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    if (channel<kGroup>(i) < x.cols) weights[i] = fetch8(weight + channel<kGroup>(i));
  }
  for (int64_t r = first; r < end; ++r) {
    Floats8 v[kVectors];
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      if (channel<kGroup>(i) >= x.cols) break;
      v[i] = floats8(next[i]);
      for (float e : v[i].v) sum += e;
    }
    if (r + 1 < end) fetch<kGroup>(next, x, r + 1);
    const float mean = layer ? group_sum<kGroup>(sum, shared) / n : 0;
    float squares = 0;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      if (channel<kGroup>(i) >= x.cols) break;
      for (float e : v[i].v) squares += (e - mean) * (e - mean);
    }
    const float rstd = 1 / sqrtf(group_sum<kGroup>(squares, shared) / n + eps);
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int64_t c = channel<kGroup>(i);
      if (c >= x.cols) break;
      const Floats8 w = floats8(weights[i]);
      Floats8 b = {};
      if (bias != nullptr) b = load8(bias + c);
#pragma unroll
      for (int j = 0; j < kVector; ++j) v[i].v[j] = (v[i].v[j] - mean) * rstd * w.v[j] + b.v[j];
      store8(row<Bf16>(out, r) + c, v[i]);
    }
    if (stats != nullptr && threadIdx.x % kGroup == 0) {
      stats[r * stats_stride] = mean;
      stats[r * stats_stride + 1] = rstd;
    }
  }
}

struct BackwardArgs {
  bool layer, accumulate;
  Rows dx, dy, x;
  const float* stats;
  int64_t stats_stride;
  const Bf16* weight;
  float *weight_partials, *bias_partials;  // [parts, d]; null: not asked for
  int64_t parts;
};

// What a thread needs of a row.
template <int kVectors>
struct BackwardRow {
  uint4 dy[kVectors], x[kVectors], dx[kVectors];  // dx where it is added to
  float mean, rstd;
};

template <int kGroup, int kVectors>
__device__ void fetch(BackwardRow<kVectors>& to, const BackwardArgs& a, int64_t r) {
  fetch<kGroup>(to.dy, a.dy, r);
  fetch<kGroup>(to.x, a.x, r);
  if (a.accumulate) fetch<kGroup>(to.dx, a.dx, r);
  to.mean = a.stats[r * a.stats_stride];
  to.rstd = a.stats[r * a.stats_stride + 1];
}

// A part's rows one after the other, the next on its way while one is summed up; the part's sums
// over its rows stay in registers, those of the bias (kBias) where they are asked for. Formulas:
// see rows.cu.
template <int kGroup, int kVectors, bool kBias>
__global__ void __launch_bounds__(kThreads) backward_kernel(BackwardArgs a) {
  __shared__ float shared[kThreads / 32];
  const int64_t part =
      static_cast<int64_t>(blockIdx.x) * (kThreads / kGroup) + threadIdx.x / kGroup;
  if (part >= a.parts) return;
  const int64_t cols = a.x.cols, end = a.x.rows * (part + 1) / a.parts;
  const float n = static_cast<float>(cols);
  Floats8 dweight[kVectors] = {}, dbias[kBias ? kVectors : 1] = {};
  BackwardRow<kVectors> next;
  fetch<kGroup>(next, a, a.x.rows * part / a.parts);
  for (int64_t r = a.x.rows * part / a.parts; r < end; ++r) {
    const float mean = next.mean, rstd = next.rstd;
    Floats8 g[kVectors], h[kVectors];
    uint4 before[kVectors];
    float sum_g = 0, sum_gh = 0;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int64_t c = channel<kGroup>(i);
      if (c >= cols) break;
      g[i] = floats8(next.dy[i]);
      h[i] = floats8(next.x[i]);
      before[i] = next.dx[i];
      const Floats8 w = load8(a.weight + c);
#pragma unroll
      for (int j = 0; j < kVector; ++j) {
        h[i].v[j] = (h[i].v[j] - mean) * rstd;
        dweight[i].v[j] += g[i].v[j] * h[i].v[j];
        if constexpr (kBias) dbias[i].v[j] += g[i].v[j];
        g[i].v[j] *= w.v[j];
        sum_g += g[i].v[j];
        sum_gh += g[i].v[j] * h[i].v[j];
      }
    }
    if (r + 1 < end) fetch<kGroup>(next, a, r + 1);
    const float mean_g = a.layer ? group_sum<kGroup>(sum_g, shared) / n : 0;
    const float mean_gh = group_sum<kGroup>(sum_gh, shared) / n;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int64_t c = channel<kGroup>(i);
      if (c >= cols) break;
      Floats8 sum = {};
      if (a.accumulate) sum = floats8(before[i]);
#pragma unroll
      for (int j = 0; j < kVector; ++j) {
        sum.v[j] += rstd * (g[i].v[j] - mean_g - h[i].v[j] * mean_gh);
      }
      store8(row<Bf16>(a.dx, r) + c, sum);
    }
  }
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int64_t c = channel<kGroup>(i);
    if (c >= cols) break;
    for (int j = 0; j < kVector; ++j) {
      if (a.weight_partials != nullptr) a.weight_partials[part * cols + c + j] = dweight[i].v[j];
      if constexpr (kBias) a.bias_partials[part * cols + c + j] = dbias[i].v[j];
    }
  }
}

// A warp a column: lanes take the parts in turn, and their sums meet in a fixed order.
__global__ void add_partials(float* out, const float* partials, int64_t parts, int64_t n) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * 32;
  __shared__ float sums[kThreads / 32][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float sum = 0;
  if (first + lane < n) {
    for (int64_t p = warp; p < parts; p += kThreads / 32) sum += partials[p * n + first + lane];
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || first + lane >= n) return;
  sum = 0;
  for (int w = 0; w < kThreads / 32; ++w) sum += sums[w][lane];
  out[first + lane] += sum;
}

template <int kGroup, int kVectors>
struct Spread {
  static constexpr int group = kGroup, vectors = kVectors;
};

// Calls f with how rows of `cols` channels are spread; false when they are too long.
template <typename F>
bool by_spread(int64_t cols, const F& f) {
  if (cols <= 256) return f(Spread<32, 1>()), true;
  if (cols <= 512) return f(Spread<32, 2>()), true;
  if (cols <= 1024) return f(Spread<32, 4>()), true;
  if (cols <= 2048) return f(Spread<256, 1>()), true;
  if (cols <= 4096) return f(Spread<256, 2>()), true;
  if (cols <= 8192) return f(Spread<256, 4>()), true;
  return false;
}

int64_t round_up_to_power(int64_t x) {
  int64_t power = 1;
  while (power < x) power *= 2;
  return power;
}

bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace

bool wide_norm_forward(bool layer, const Rows& out, float* stats, int64_t stats_stride,
                       const Rows& x, const void* weight, const void* bias, float eps,
                       cudaStream_t stream) {
  if (!is_wide(out) || !is_wide(x) || !aligned(weight) || !aligned(bias)) return false;
  constexpr int64_t kManyRows = 4096;  // enough to fill the GPU four at a time
  const int each = x.rows >= kManyRows ? 4 : 1;
  return by_spread(x.cols, [&](auto spread) {
    using S = decltype(spread);
    launch_dependent(forward_kernel<S::group, S::vectors>,
                     blocks_for(x.rows, each * (kThreads / S::group), INT32_MAX), kThreads, stream,
                     layer, out, stats, stats_stride, x, static_cast<const Bf16*>(weight),
                     static_cast<const Bf16*>(bias), eps, each);
  });
}

bool wide_norm_backward(bool layer, const Rows& dx, bool accumulate, float* dweight, float* dbias,
                        const Rows& dy, const Rows& x, const float* stats, int64_t stats_stride,
                        const void* weight, float* partials, cudaStream_t stream) {
  if (!is_wide(dx) || !is_wide(dy) || !is_wide(x) || !aligned(weight)) return false;
  const int64_t most = kWidePartialFloats / 2 / std::max<int64_t>(1024, round_up_to_power(x.cols));
  const int64_t parts = std::min(x.rows, most);
  const BackwardArgs args{layer,
                          accumulate,
                          dx,
                          dy,
                          x,
                          stats,
                          stats_stride,
                          static_cast<const Bf16*>(weight),
                          dweight != nullptr ? partials : nullptr,
                          dbias != nullptr ? partials + parts * x.cols : nullptr,
                          parts};
  const bool done = by_spread(x.cols, [&](auto spread) {
    using S = decltype(spread);
    const unsigned blocks = blocks_for(parts, kThreads / S::group);
    if (dbias != nullptr) {
      backward_kernel<S::group, S::vectors, true><<<blocks, kThreads, 0, stream>>>(args);
    } else {
      backward_kernel<S::group, S::vectors, false><<<blocks, kThreads, 0, stream>>>(args);
    }
  });
  if (!done) return false;
  const unsigned blocks = blocks_for(x.cols, 32);
  if (dweight != nullptr) {
    add_partials<<<blocks, kThreads, 0, stream>>>(dweight, args.weight_partials, parts, x.cols);
  }
  if (dbias != nullptr) {
    add_partials<<<blocks, kThreads, 0, stream>>>(dbias, args.bias_partials, parts, x.cols);
  }
  return true;
}

}  // namespace longgen::cuda
