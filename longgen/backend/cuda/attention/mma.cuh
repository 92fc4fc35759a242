// Warp-wide matrix products of bf16 with f32 sums (mma.sync m16n8k16), and tiles in shared memory.
//
// A tile [rows, D] has rows D + 8 elements apart: eight consecutive rows then lie in different
// banks for every D that is a multiple of 16.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "longgen/backend/cuda/attention/pattern.cuh"

namespace longgen::cuda {

using Bf16 = __nv_bfloat16;

template <int D>
inline constexpr int kPitch = D + 8;

__device__ inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
__device__ inline void load_matrices(uint32_t (&r)[4], const Bf16* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(p)));
}
__device__ inline void load_matrices_transposed(uint32_t (&r)[4], const Bf16* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(p)));
}
__device__ inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                    uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline uint32_t pack(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&both);
}

// 16 bytes to shared memory, zeros where `valid` is false.
__device__ inline void copy_async(Bf16* to, const Bf16* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(to)),
               "l"(from), "r"(valid ? 16 : 0));
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;\n" ::); }
template <int kPending>
__device__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending));
}

// c [16, 8 * kTiles] += a [16, D] b^T, with the warp's 16 rows of A at `a` and B [8 * kTiles, D] at
// `b`, both in shared memory.
template <int D, int kTiles>
__device__ void multiply_transposed(float (&c)[kTiles][4], const Bf16* a, const Bf16* b) {
  const int lane = threadIdx.x % 32;
  const Bf16* a_lane = a + (lane % 16) * kPitch<D> + lane / 16 * 8;
  const Bf16* b_lane = b + ((lane & 7) + ((lane >> 4) << 3)) * kPitch<D> + ((lane >> 3) & 1) * 8;
#pragma unroll
  for (int k = 0; k < D; k += 16) {
    uint32_t left[4];
    load_matrices(left, a_lane + k);
#pragma unroll
    for (int n = 0; n < kTiles; n += 2) {
      uint32_t right[4];
      load_matrices(right, b_lane + n * 8 * kPitch<D> + k);
      multiply_add(c[n], left, right[0], right[1]);
      multiply_add(c[n + 1], left, right[2], right[3]);
    }
  }
}

// c [16, D] += p [16, 8 * kTiles] b, with p as accumulators of an earlier product, rounded to bf16,
// and B [8 * kTiles, D] in shared memory.
template <int D, int kTiles>
__device__ void multiply_accumulators(float (&c)[D / 8][4], const float (&p)[kTiles][4],
                                      const Bf16* b) {
  const int lane = threadIdx.x % 32;
  const Bf16* b_lane = b + (lane & 15) * kPitch<D> + (lane >> 4) * 8;
#pragma unroll
  for (int k = 0; k < kTiles; k += 2) {
    const uint32_t left[4] = {pack(p[k][0], p[k][1]), pack(p[k][2], p[k][3]),
                              pack(p[k + 1][0], p[k + 1][1]), pack(p[k + 1][2], p[k + 1][3])};
#pragma unroll
    for (int n = 0; n < D / 8; n += 2) {
      uint32_t right[4];
      load_matrices_transposed(right, b_lane + k * 8 * kPitch<D> + n * 8);
      multiply_add(c[n], left, right[0], right[1]);
      multiply_add(c[n + 1], left, right[2], right[3]);
    }
  }
}

// Starts copying keys [first, first + kTileRows) of one head, zeros beyond the length and where
// blocks have been released.
template <int D, int kThreads>
__device__ void copy_keys(Bf16* to, const void* from, const SequenceArgs& s, int shift, int head,
                          int first) {
  constexpr int kChunks = D / 8;
  const auto* base = static_cast<const Bf16*>(from);
  for (int i = threadIdx.x; i < kTileRows * kChunks; i += kThreads) {
    const int r = i / kChunks, c = i % kChunks * 8, position = first + r;
    int64_t at = -1;
    if (position < s.length) at = kv_offset(s, shift, head, position);
    copy_async(to + r * kPitch<D> + c, base + (at < 0 ? 0 : at + c), at >= 0);
  }
}

// Starts copying kTileRows packed rows (query, head of the group) from `first` on; zeros beyond the
// sequence.
template <int D, int kThreads>
__device__ void copy_packed_rows(Bf16* to, const void* from, int64_t row_stride,
                                 int64_t head_stride, const SequenceArgs& s, int group, int kv_head,
                                 int first) {
  constexpr int kChunks = D / 8;
  const auto* base = static_cast<const Bf16*>(from);
  for (int i = threadIdx.x; i < kTileRows * kChunks; i += kThreads) {
    const int r = i / kChunks, c = i % kChunks * 8, packed = first + r;
    const int query = packed / group, head = kv_head * group + packed % group;
    const bool valid = query < s.row_count;
    const int64_t at = (s.row_begin + query) * row_stride + head * head_stride + c;
    copy_async(to + r * kPitch<D> + c, base + (valid ? at : 0), valid);
  }
}

}  // namespace longgen::cuda
