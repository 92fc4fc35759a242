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

template <int kGroup, int kVectors>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(bool layer, Rows out, float* stats, int64_t stats_stride, Rows x,
                   const Bf16* weight, const Bf16* bias, float eps) {
  __shared__ float shared[kThreads / 32];
  let_next_start();
  wait_for_inputs();
  const int64_t r = static_cast<int64_t>(blockIdx.x) * (kThreads / kGroup) + threadIdx.x / kGroup;
  if (r >= x.rows) return;  // a whole warp or block at once
  const Bf16* in = row<Bf16>(x, r);
  const float n = static_cast<float>(x.cols);
  Floats8 v[kVectors];
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int64_t c = channel<kGroup>(i);
    if (c >= x.cols) break;
    v[i] = load8(in + c);
    for (float e : v[i].v) sum += e;
  }
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
    const Floats8 w = load8(weight + c);
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

struct BackwardArgs {
  bool layer, accumulate;
  Rows dx, dy, x;
  const float* stats;
  int64_t stats_stride;
  const Bf16* weight;
  float *weight_partials, *bias_partials;  // [parts, d]; null: not asked for
  int64_t parts;
};

// A part's rows one after the other; its sums over them stay in registers. Formulas: see rows.cu.
template <int kGroup, int kVectors>
__global__ void __launch_bounds__(kThreads) backward_kernel(BackwardArgs a) {
  __shared__ float shared[kThreads / 32];
  const int64_t part =
      static_cast<int64_t>(blockIdx.x) * (kThreads / kGroup) + threadIdx.x / kGroup;
  if (part >= a.parts) return;
  const int64_t cols = a.x.cols;
  const float n = static_cast<float>(cols);
  Floats8 dweight[kVectors] = {}, dbias[kVectors] = {};
  for (int64_t r = a.x.rows * part / a.parts; r < a.x.rows * (part + 1) / a.parts; ++r) {
    const float mean = a.stats[r * a.stats_stride], rstd = a.stats[r * a.stats_stride + 1];
    Floats8 g[kVectors], h[kVectors];
    float sum_g = 0, sum_gh = 0;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int64_t c = channel<kGroup>(i);
      if (c >= cols) break;
      g[i] = load8(row<Bf16>(a.dy, r) + c);
      h[i] = load8(row<Bf16>(a.x, r) + c);
      const Floats8 w = load8(a.weight + c);
#pragma unroll
      for (int j = 0; j < kVector; ++j) {
        h[i].v[j] = (h[i].v[j] - mean) * rstd;
        dweight[i].v[j] += g[i].v[j] * h[i].v[j];
        dbias[i].v[j] += g[i].v[j];
        g[i].v[j] *= w.v[j];
        sum_g += g[i].v[j];
        sum_gh += g[i].v[j] * h[i].v[j];
      }
    }
    const float mean_g = a.layer ? group_sum<kGroup>(sum_g, shared) / n : 0;
    const float mean_gh = group_sum<kGroup>(sum_gh, shared) / n;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int64_t c = channel<kGroup>(i);
      if (c >= cols) break;
      Bf16* to = row<Bf16>(a.dx, r) + c;
      Floats8 before = {};
      if (a.accumulate) before = load8(to);
#pragma unroll
      for (int j = 0; j < kVector; ++j) {
        g[i].v[j] = before.v[j] + rstd * (g[i].v[j] - mean_g - h[i].v[j] * mean_gh);
      }
      store8(to, g[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int64_t c = channel<kGroup>(i);
    if (c >= cols) break;
    for (int j = 0; j < kVector; ++j) {
      if (a.weight_partials != nullptr) a.weight_partials[part * cols + c + j] = dweight[i].v[j];
      if (a.bias_partials != nullptr) a.bias_partials[part * cols + c + j] = dbias[i].v[j];
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
  return by_spread(x.cols, [&](auto spread) {
    using S = decltype(spread);
    launch_dependent(forward_kernel<S::group, S::vectors>,
                     blocks_for(x.rows, kThreads / S::group, INT32_MAX), kThreads, stream, layer,
                     out, stats, stats_stride, x, static_cast<const Bf16*>(weight),
                     static_cast<const Bf16*>(bias), eps);
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
    backward_kernel<S::group, S::vectors>
        <<<blocks_for(parts, kThreads / S::group), kThreads, 0, stream>>>(args);
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
