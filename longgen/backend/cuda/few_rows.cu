// Products of a few rows: a warp forms kColumns columns of C, reading their weights once, 16 bytes
// a lane at a time. A's rows come from the caches. Sums run in f32, lane by lane and then over the
// lanes, in an order that depends on k alone.
#include <cuda_bf16.h>

#include "longgen/backend/cuda/device_math.cuh"
#include "longgen/backend/cuda/few_rows.h"

namespace longgen::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kEach = 8;  // elements of 16 bytes

struct Eight {
  float x[kEach];

  __device__ explicit Eight(const uint4& bits) {
    const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[2 * i] = __uint_as_float(words[i] << 16);
      x[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
  }
};

// Weights are read once: they should not push the rest out of the caches.
__device__ uint4 load_once(const uint16_t* from) {
  uint4 bits;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
               : "l"(from));
  return bits;
}

template <int kRows, int kColumns, typename C>
__global__ void __launch_bounds__(kWarps * 32) few_rows_kernel(ProductArgs p) {
  const int lane = threadIdx.x % 32;
  const int64_t n0 = (static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32) * kColumns;
  if (n0 >= p.n) return;
  const auto* a = static_cast<const uint16_t*>(p.a);
  const auto* b = static_cast<const uint16_t*>(p.b);
  // Beyond the last column the last one is formed again and not stored.
  const uint16_t* columns[kColumns];
#pragma unroll
  for (int c = 0; c < kColumns; ++c) columns[c] = b + min(n0 + c, p.n - 1) * p.b_stride;
  float sums[kRows][kColumns] = {};
#pragma unroll 4
  for (int64_t k = lane * kEach; k < p.k; k += 32 * kEach) {
    uint4 weights[kColumns];
#pragma unroll
    for (int c = 0; c < kColumns; ++c) weights[c] = load_once(columns[c] + k);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const Eight x(*reinterpret_cast<const uint4*>(a + r * p.a_stride + k));
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const Eight w(weights[c]);
#pragma unroll
        for (int i = 0; i < kEach; ++i) sums[r][c] = fmaf(x.x[i], w.x[i], sums[r][c]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      float sum = warp_sum(sums[r][c]);
      if (lane != 0 || n0 + c >= p.n) continue;
      if (p.bias != nullptr) sum += to_float(static_cast<const __nv_bfloat16*>(p.bias)[n0 + c]);
      C* to = static_cast<C*>(p.c) + r * p.c_stride + n0 + c;
      if (p.accumulate) sum += to_float(*to);
      *to = from_float<C>(sum);
    }
  }
}

template <int kRows, int kColumns, typename C>
void launch(const ProductArgs& p, cudaStream_t stream) {
  const int64_t each = kWarps * kColumns;
  few_rows_kernel<kRows, kColumns, C>
      <<<static_cast<unsigned>((p.n + each - 1) / each), kWarps * 32, 0, stream>>>(p);
}

template <int kRows>
void by_columns(const ProductArgs& p, cudaStream_t stream) {
  // Several columns a warp read A less often; few columns in all must still fill the GPU.
  constexpr int64_t kMany = 8192;
  const bool f32 = p.c_type == Element::kF32;
  if (p.n >= kMany) {
    return f32 ? launch<kRows, 4, float>(p, stream) : launch<kRows, 4, __nv_bfloat16>(p, stream);
  }
  f32 ? launch<kRows, 1, float>(p, stream) : launch<kRows, 1, __nv_bfloat16>(p, stream);
}

bool in_sixteens(const void* data, int64_t stride) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % kEach == 0;
}

}  // namespace

bool takes_few_rows(const ProductArgs& p) {
  return p.m >= 1 && p.m <= kMostFewRows && p.n >= 1 && p.k % kEach == 0 &&
         p.type == Element::kBF16 && p.b_transposed && !p.a_transposed &&
         in_sixteens(p.a, p.a_stride) && in_sixteens(p.b, p.b_stride);
}

void product_few_rows(const ProductArgs& p, cudaStream_t stream) {
  switch (p.m) {
    case 1:
      return by_columns<1>(p, stream);
    case 2:
      return by_columns<2>(p, stream);
    case 3:
      return by_columns<3>(p, stream);
    case 4:
      return by_columns<4>(p, stream);
    case 5:
      return by_columns<5>(p, stream);
    case 6:
      return by_columns<6>(p, stream);
    case 7:
      return by_columns<7>(p, stream);
    default:
      return by_columns<8>(p, stream);
  }
}

}  // namespace longgen::cuda
