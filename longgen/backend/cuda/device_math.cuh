// Loads, stores and sums that the kernels share.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "longgen/backend/cuda/launch.h"

namespace longgen::cuda {

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T>
__device__ T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

__device__ inline int64_t row_offset(const Rows& x, int64_t r) {
  return x.inner == 1 ? r * x.outer_stride
                      : (r / x.inner) * x.outer_stride + (r % x.inner) * x.inner_stride;
}
template <typename T>
__device__ T* row(const Rows& x, int64_t r) {
  return static_cast<T*>(x.data) + row_offset(x, r);
}

// The same sum in every lane.
template <typename T>
__device__ T warp_sum(T x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}
__device__ inline float warp_max(float x) {
  for (int offset = 16; offset > 0; offset /= 2)
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}

// The same sum in every thread of a block of kThreads; `shared` holds kThreads / 32 values.
template <int kThreads, typename T>
__device__ T block_sum(T x, T* shared) {
  x = warp_sum(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  T sum = 0;
  for (int i = 0; i < kThreads / 32; ++i) sum += shared[i];
  return sum;
}
template <int kThreads>
__device__ float block_max(float x, float* shared) {
  x = warp_max(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  float top = shared[0];
  for (int i = 1; i < kThreads / 32; ++i) top = fmaxf(top, shared[i]);
  return top;
}

// Calls f(T{}) for the activation types that the backend computes in.
template <typename F>
void by_activation_type(Element type, const F& f) {
  if (type == Element::kBF16) {
    f(__nv_bfloat16{});
  } else {
    f(float{});
  }
}

inline unsigned blocks_for(int64_t items, int64_t per_block, int64_t most = 1 << 20) {
  const int64_t blocks = (items + per_block - 1) / per_block;
  return static_cast<unsigned>(blocks < 1 ? 1 : blocks < most ? blocks : most);
}

}  // namespace longgen::cuda
