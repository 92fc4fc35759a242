// Loss and optimizer.
#include "longgen/backend/cuda/alignment.h"
#include "longgen/backend/cuda/device_math.cuh"

namespace longgen::cuda {
namespace {

constexpr int kThreads = 256;

// Whether row t has a label that counts. One that has none gives no loss and no gradient; unless
// its label is -1, it is reported. Called by the whole block.
template <typename T>
__device__ bool has_label(int32_t label, int64_t t, int64_t cols, float* losses, T* dlogits,
                          ErrorFlag error) {
  if (label >= 0 && label < cols) return true;
  if (threadIdx.x == 0) {
    if (label != -1) atomicCAS(error.bad_id, 0, static_cast<int>(t) + 1);
    losses[t] = 0;
  }
  for (int64_t c = threadIdx.x; dlogits != nullptr && c < cols; c += blockDim.x) {
    dlogits[c] = from_float<T>(0);
  }
  return false;
}

template <typename T>
__global__ void cross_entropy_kernel(float* losses, Rows dlogits, Rows logits,
                                     const int32_t* labels, float scale, ErrorFlag error) {
  __shared__ float shared[kThreads / 32];
  const int64_t n = logits.cols;
  for (int64_t t = blockIdx.x; t < logits.rows; t += gridDim.x) {
    const int32_t label = labels[t];
    T* d = dlogits.data != nullptr ? row<T>(dlogits, t) : nullptr;
    if (!has_label(label, t, n, losses, d, error)) continue;
    const float* z = row<float>(logits, t);
    float top = -INFINITY;
    for (int64_t c = threadIdx.x; c < n; c += kThreads) top = fmaxf(top, z[c]);
    top = block_max<kThreads>(top, shared);
    float sum = 0;
    for (int64_t c = threadIdx.x; c < n; c += kThreads) sum += expf(z[c] - top);
    sum = block_sum<kThreads>(sum, shared);
    const float lse = top + logf(sum);
    if (threadIdx.x == 0) losses[t] = lse - z[label];
    for (int64_t c = threadIdx.x; d != nullptr && c < n; c += kThreads) {
      d[c] = from_float<T>((expf(z[c] - lse) - (c == label ? 1.f : 0.f)) * scale);
    }
  }
}

__device__ void store4(float* to, const float (&x)[4]) {
  *reinterpret_cast<float4*>(to) = make_float4(x[0], x[1], x[2], x[3]);
}
__device__ void store4(__nv_bfloat16* to, const float (&x)[4]) {
  const __nv_bfloat162 low = __floats2bfloat162_rn(x[0], x[1]);
  const __nv_bfloat162 high = __floats2bfloat162_rn(x[2], x[3]);
  *reinterpret_cast<uint2*>(to) = make_uint2(*reinterpret_cast<const uint32_t*>(&low),
                                             *reinterpret_cast<const uint32_t*>(&high));
}

// The same for rows in pieces of four, a large block a row: the first kHeld pieces of a thread (all
// of 32K logits) stay in registers, so that logits are read once.
constexpr int kWideThreads = 1024, kHeld = 8;
template <typename T>
__global__ void __launch_bounds__(kWideThreads)
    wide_cross_entropy_kernel(float* losses, Rows dlogits, Rows logits, const int32_t* labels,
                              float scale, ErrorFlag error) {
  __shared__ float shared[kWideThreads / 32];
  const int pieces = static_cast<int>(logits.cols / 4), thread = static_cast<int>(threadIdx.x);
  constexpr int kStep = kWideThreads;
  for (int64_t t = blockIdx.x; t < logits.rows; t += gridDim.x) {
    const int32_t label = labels[t];
    T* d = dlogits.data != nullptr ? row<T>(dlogits, t) : nullptr;
    if (!has_label(label, t, logits.cols, losses, d, error)) continue;
    const auto* z = reinterpret_cast<const float4*>(row<float>(logits, t));
    float4 held[kHeld];
    float top = -INFINITY, sum = 0;
    const auto take_top = [&](const float4& x) {
      top = fmaxf(top, fmaxf(fmaxf(x.x, x.y), fmaxf(x.z, x.w)));
    };
    const auto take_sum = [&](const float4& x) {
      sum += (expf(x.x - top) + expf(x.y - top)) + (expf(x.z - top) + expf(x.w - top));
    };
#pragma unroll
    for (int k = 0; k < kHeld; ++k) {
      const int i = thread + k * kStep;
      held[k] = i < pieces ? z[i] : make_float4(-INFINITY, -INFINITY, -INFINITY, -INFINITY);
    }
#pragma unroll
    for (int k = 0; k < kHeld; ++k) take_top(held[k]);
    for (int i = thread + kHeld * kStep; i < pieces; i += kStep) take_top(z[i]);
    top = block_max<kWideThreads>(top, shared);
#pragma unroll
    for (int k = 0; k < kHeld; ++k) take_sum(held[k]);
    for (int i = thread + kHeld * kStep; i < pieces; i += kStep) take_sum(z[i]);
    const float of_label = row<float>(logits, t)[label];
    sum = block_sum<kWideThreads>(sum, shared);
    const float lse = top + logf(sum);
    if (thread == 0) losses[t] = lse - of_label;
    if (d == nullptr) continue;
    const auto put = [&](int i, const float4& x) {
      const float values[4] = {x.x, x.y, x.z, x.w};
      float slopes[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        slopes[j] = (expf(values[j] - lse) - (4 * i + j == label ? 1.f : 0.f)) * scale;
      }
      store4(d + 4 * i, slopes);
    };
#pragma unroll
    for (int k = 0; k < kHeld; ++k) {
      if (thread + k * kStep < pieces) put(thread + k * kStep, held[k]);
    }
    for (int i = thread + kHeld * kStep; i < pieces; i += kStep) put(i, z[i]);
  }
}

template <typename T>
__global__ void square_partials(double* partials, Rows x) {
  __shared__ double shared[kThreads / 32];
  double sum = 0;
  for (int64_t r = blockIdx.x; r < x.rows; r += gridDim.x) {
    const T* from = row<T>(x, r);
    for (int64_t c = threadIdx.x; c < x.cols; c += kThreads) {
      const double v = to_float(from[c]);
      sum += v * v;
    }
  }
  sum = block_sum<kThreads>(sum, shared);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

__global__ void sum_partials(double* result, const double* partials) {
  __shared__ double shared[kThreads / 32];
  double sum = 0;
  for (int i = threadIdx.x; i < kSquareParts; i += kThreads) sum += partials[i];
  sum = block_sum<kThreads>(sum, shared);
  if (threadIdx.x == 0) *result = sum;
}

// Loshchilov and Hutter, arXiv 1711.05101.
__device__ void adamw(float& w, float& m, float& v, float gradient, const AdamWArgs& a) {
  const float g = gradient * a.gradient_scale;
  m = a.beta1 * m + (1 - a.beta1) * g;
  v = a.beta2 * v + (1 - a.beta2) * g * g;
  const float update = m / a.correct_m / (sqrtf(v / a.correct_v) + a.eps);
  w -= a.lr * (update + a.weight_decay * w);
}

template <typename T>
__global__ void adamw_kernel(T* weights, float* master, float* m, float* v, const float* gradient,
                             int64_t n, AdamWArgs a) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  float w = master[i], mean = m[i], square = v[i];
  adamw(w, mean, square, gradient[i], a);
  m[i] = mean;
  v[i] = square;
  master[i] = w;
  weights[i] = from_float<T>(w);
}

// See base/rng.h.
__device__ uint4 philox(uint64_t seed, uint64_t stream, uint64_t counter) {
  uint4 x = make_uint4(static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32),
                       static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32));
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint32_t high0 = __umulhi(0xD2511F53u, x.x), low0 = 0xD2511F53u * x.x;
    const uint32_t high1 = __umulhi(0xCD9E8D57u, x.z), low1 = 0xCD9E8D57u * x.z;
    x = make_uint4(high1 ^ x.y ^ key0, low1, high0 ^ x.w ^ key1, low0);
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return x;
}

// The bits of x rounded to bf16 by 16 random ones.
__device__ uint32_t rounded_by(float x, uint32_t bits) {
  const uint32_t u = __float_as_uint(x);
  return (x != x ? u | 0x400000u : u + bits) >> 16;
}

__device__ float low_half(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ float high_half(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

// Elements 2i and 2i + 1, which share one block of random numbers.
__device__ void adamw_pair(uint32_t& w, uint32_t& m, uint32_t& v, float2 gradient, uint64_t pair,
                           const AdamWArgs& a, uint64_t seed, uint64_t stream) {
  const uint4 r = philox(seed, stream, pair);
  float w0 = low_half(w), m0 = low_half(m), v0 = low_half(v);
  float w1 = high_half(w), m1 = high_half(m), v1 = high_half(v);
  adamw(w0, m0, v0, gradient.x, a);
  adamw(w1, m1, v1, gradient.y, a);
  w = rounded_by(w0, r.x & 0xffffu) | rounded_by(w1, r.z & 0xffffu) << 16;
  m = rounded_by(m0, r.x >> 16) | rounded_by(m1, r.z >> 16) << 16;
  v = rounded_by(v0, r.y & 0xffffu) | rounded_by(v1, r.w & 0xffffu) << 16;
}

// Eight elements a thread; the last thread takes what is left one by one.
__global__ void adamw_bf16_kernel(uint16_t* weights, uint16_t* m, uint16_t* v,
                                  const float* gradient, int64_t n, AdamWArgs a, uint64_t seed,
                                  uint64_t stream) {
  const int64_t i = 8 * (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x);
  if (i + 8 <= n) {
    uint4 w8 = *reinterpret_cast<const uint4*>(weights + i);
    uint4 m8 = *reinterpret_cast<const uint4*>(m + i), v8 = *reinterpret_cast<const uint4*>(v + i);
    const float4 g0 = *reinterpret_cast<const float4*>(gradient + i);
    const float4 g1 = *reinterpret_cast<const float4*>(gradient + i + 4);
    const uint64_t pair = i / 2;
    adamw_pair(w8.x, m8.x, v8.x, make_float2(g0.x, g0.y), pair, a, seed, stream);
    adamw_pair(w8.y, m8.y, v8.y, make_float2(g0.z, g0.w), pair + 1, a, seed, stream);
    adamw_pair(w8.z, m8.z, v8.z, make_float2(g1.x, g1.y), pair + 2, a, seed, stream);
    adamw_pair(w8.w, m8.w, v8.w, make_float2(g1.z, g1.w), pair + 3, a, seed, stream);
    *reinterpret_cast<uint4*>(weights + i) = w8;
    *reinterpret_cast<uint4*>(m + i) = m8;
    *reinterpret_cast<uint4*>(v + i) = v8;
    return;
  }
  for (int64_t j = i; j < n; j += 2) {
    const bool two = j + 1 < n;
    const auto both = [&](const uint16_t* p) { return p[j] | (two ? p[j + 1] << 16 : 0u); };
    uint32_t w2 = both(weights), m2 = both(m), v2 = both(v);
    const float2 g = make_float2(gradient[j], two ? gradient[j + 1] : 0.f);
    adamw_pair(w2, m2, v2, g, j / 2, a, seed, stream);
    const auto put = [&](uint16_t* p, uint32_t pair) {
      p[j] = static_cast<uint16_t>(pair);
      if (two) p[j + 1] = static_cast<uint16_t>(pair >> 16);
    };
    put(weights, w2);
    put(m, m2);
    put(v, v2);
  }
}

}  // namespace

void softmax_cross_entropy(float* losses, const Rows& dlogits, Element type, const Rows& logits,
                           const int32_t* labels, float scale, ErrorFlag error,
                           cudaStream_t stream) {
  if (logits.rows == 0) return;
  by_activation_type(type, [&](auto zero) {
    using T = decltype(zero);
    const unsigned blocks = blocks_for(logits.rows, 1);
    if (in_pieces(logits, 4, sizeof(float)) && in_pieces(dlogits, 4, sizeof(T)) &&
        logits.cols <= INT32_MAX) {
      wide_cross_entropy_kernel<T>
          <<<blocks, kWideThreads, 0, stream>>>(losses, dlogits, logits, labels, scale, error);
    } else {
      cross_entropy_kernel<T>
          <<<blocks, kThreads, 0, stream>>>(losses, dlogits, logits, labels, scale, error);
    }
  });
}

void sum_of_squares(double* result, double* partials, const Rows& x, Element type,
                    cudaStream_t stream) {
  by_activation_type(type, [&](auto zero) {
    square_partials<decltype(zero)><<<kSquareParts, kThreads, 0, stream>>>(partials, x);
  });
  sum_partials<<<1, kThreads, 0, stream>>>(result, partials);
}

void adamw_step(void* weights, Element type, float* master, float* m, float* v,
                const float* gradient, int64_t n, const AdamWArgs& args, cudaStream_t stream) {
  if (n == 0) return;
  by_activation_type(type, [&](auto zero) {
    adamw_kernel<<<blocks_for(n, kThreads, INT32_MAX), kThreads, 0, stream>>>(
        static_cast<decltype(zero)*>(weights), master, m, v, gradient, n, args);
  });
}

void adamw_step_bf16(void* weights, void* m, void* v, const float* gradient, int64_t n,
                     const AdamWArgs& args, uint64_t seed, uint64_t rounding_stream,
                     cudaStream_t stream) {
  if (n == 0) return;
  adamw_bf16_kernel<<<blocks_for(n, 8 * kThreads, INT32_MAX), kThreads, 0, stream>>>(
      static_cast<uint16_t*>(weights), static_cast<uint16_t*>(m), static_cast<uint16_t*>(v),
      gradient, n, args, seed, rounding_stream);
}

}  // namespace longgen::cuda
