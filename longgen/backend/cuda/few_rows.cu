// Products of a few rows: C = A B^T with at most eight rows of A, bound by reading B's rows, the
// weights, once. A warp's tensor-core products have 16 rows of weights on one side and the eight
// rows of A, missing ones as zeros, on the other. Sums run in f32: the eight warps of a block take
// up to 128 of k in turn (64 where columns are many), and their sums are added in their order; how
// many rows there are changes nothing.
#include <cuda_bf16.h>

#include "longgen/backend/cuda/dependent_launch.cuh"
#include "longgen/backend/cuda/device_math.cuh"
#include "longgen/backend/cuda/few_rows.h"

namespace longgen::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kEach = 8;      // elements of 16 bytes
constexpr int kTile = 16;     // columns of C in a product
constexpr int kChunk = 32;    // of k in two products
constexpr int kMostRows = 8;  // of A

// Weights are read once: they should not push the rest out of the caches.
__device__ uint4 load_once(const uint16_t* from) {
  uint4 bits;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
               : "l"(from));
  return bits;
}

// c [16, 8] += a [16, 16] b [16, 8].
__device__ void multiply(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                         uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// What a warp takes at once: up to kAtOnce chunks of k that lie side by side. Any order of k serves
// as long as both factors have the same: a lane's 16 bytes, eight of k in one of its rows, are two
// registers of each of two products.
template <int kTiles, int kAtOnce>
struct Batch {
  uint4 weights[kAtOnce][kTiles][2];  // rows lane / 4 and lane / 4 + 8 of each tile

  __device__ void load(const uint16_t* const (&rows)[kTiles][2], int k, int count, int end) {
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
      const bool there = u < count && k + u * kChunk < end;
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          weights[u][t][half] =
              there ? load_once(rows[t][half] + k + u * kChunk) : make_uint4(0, 0, 0, 0);
        }
      }
    }
  }
  __device__ void add_products(float (&sums)[kTiles][4], const uint4 (&x)[kAtOnce]) const {
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        const uint4 &low = weights[u][t][0], &high = weights[u][t][1];
        multiply(sums[t], low.x, high.x, low.y, high.y, x[u].x, x[u].y);
        multiply(sums[t], low.z, high.z, low.w, high.w, x[u].z, x[u].w);
      }
    }
  }
};

template <int kTiles, typename C>
__global__ void __launch_bounds__(kWarps * 32, 2) few_rows_kernel(ProductArgs p) {
  constexpr int kColumns = kTiles * kTile, kAtOnce = kTiles == 1 ? 4 : 2;
  static_assert(kMostRows * kColumns <= kWarps * 32);  // a thread writes at most one number
  __shared__ float partial[kWarps][kMostRows][kColumns];
  let_next_start();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4;
  const int64_t n0 = static_cast<int64_t>(blockIdx.x) * kColumns;
  const uint16_t* rows[kTiles][2];
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      // Beyond the last column the last one is formed again and not stored.
      const int64_t n = min(n0 + t * kTile + half * 8 + g, p.n - 1);
      rows[t][half] = static_cast<const uint16_t*>(p.b) + n * p.b_stride + lane % 4 * kEach;
    }
  }
  const auto* a = static_cast<const uint16_t*>(p.a) + g * p.a_stride + lane % 4 * kEach;
  const bool has_row = g < p.m;
  // Lanes count from their own first element, so k is theirs less `lane % 4 * kEach`.
  const int whole = static_cast<int>(p.k), end = whole - lane % 4 * kEach;
  const int chunks = (whole + kChunk - 1) / kChunk;
  const int count = min(kAtOnce, (chunks + kWarps - 1) / kWarps), step = kWarps * count * kChunk;
  int k = warp * count * kChunk;
  Batch<kTiles, kAtOnce> batches[2];
  batches[0].load(rows, k, count, end);  // while the kernel before still runs
  wait_for_inputs();
  // What this thread will add its result to.
  const int r = threadIdx.x / kColumns, c = threadIdx.x % kColumns;
  const bool writes = r < p.m && n0 + c < p.n;
  C* to = static_cast<C*>(p.c) + r * p.c_stride + n0 + c;
  float sum = writes && p.accumulate ? to_float(*to) : 0.f;
  if (writes && p.bias != nullptr) {
    sum += to_float(static_cast<const __nv_bfloat16*>(p.bias)[n0 + c]);
  }
  float sums[kTiles][4] = {};
  const auto turn = [&](Batch<kTiles, kAtOnce>& now, Batch<kTiles, kAtOnce>& next) {
    uint4 x[kAtOnce];
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
      const bool there = has_row && u < count && k + u * kChunk < end;
      x[u] = there ? *reinterpret_cast<const uint4*>(a + k + u * kChunk) : make_uint4(0, 0, 0, 0);
    }
    k += step;
    next.load(rows, k, count, end);
    now.add_products(sums, x);
  };
  for (int done = k; done < whole; done += 2 * step) {
    turn(batches[0], batches[1]);
    turn(batches[1], batches[0]);
  }
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      partial[warp][lane % 4 * 2 + i % 2][t * kTile + i / 2 * 8 + g] = sums[t][i];
    }
  }
  __syncthreads();
  if (!writes) return;
  float product = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) product += partial[w][r][c];
  *to = from_float<C>(product + sum);
}

template <int kTiles, typename C>
void launch(const ProductArgs& p, cudaStream_t stream) {
  constexpr int64_t kColumns = kTiles * kTile;
  launch_dependent(few_rows_kernel<kTiles, C>,
                   static_cast<unsigned>((p.n + kColumns - 1) / kColumns), kWarps * 32, stream, p);
}

template <typename C>
void by_columns(const ProductArgs& p, cudaStream_t stream) {
  // Two tiles a block read A half as often; few columns in all must still fill the GPU.
  constexpr int64_t kMany = 8192;
  p.n >= kMany ? launch<2, C>(p, stream) : launch<1, C>(p, stream);
}

bool in_sixteens(const void* data, int64_t stride) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % kEach == 0;
}

}  // namespace

bool takes_few_rows(const ProductArgs& p) {
  static_assert(kMostFewRows <= kMostRows);
  return p.m >= 1 && p.m <= kMostFewRows && p.n >= 1 && p.k % kEach == 0 &&
         p.type == Element::kBF16 && p.b_transposed && !p.a_transposed &&
         in_sixteens(p.a, p.a_stride) && in_sixteens(p.b, p.b_stride);
}

void product_few_rows(const ProductArgs& p, cudaStream_t stream) {
  p.c_type == Element::kF32 ? by_columns<float>(p, stream) : by_columns<__nv_bfloat16>(p, stream);
}

}  // namespace longgen::cuda
