// What the product driver (gemm.h) needs of an instruction set. No function bodies here: see
// simd.h.
//
// C = A B with A [m, k] cut into panels of `mr` rows and B [k, n] into panels of `nr` columns.
// Packed panels hold, for every step of k, the panel's values side by side; bf16 instructions eat k
// in pairs (k_unit 2).
#pragma once

#include <cstdint>

namespace longgen {

// `count` vectors of `depth` values: (i, k) at data + i * stride + k when the k are contiguous, at
// data + k * stride + i otherwise.
struct PackSource {
  const void* data;
  int64_t stride;
  bool k_contiguous;
};

struct GemmKernels {
  int element_bytes;  // of packed values
  int k_unit;         // packed depths are multiples of it; what is beyond the source is 0
  int max_mr;         // panels have 1 ... max_mr rows, a multiple of mr_unit
  int mr_unit;
  int nr;
  int max_kc;  // the deepest panel worth keeping in the first-level cache

  // Packs vectors [0, count) of `width` (the rest become 0) and depth [0, depth) (rounded up to
  // k_unit) of the source.
  void (*pack_a)(void* panel, const PackSource& source, int64_t count, int64_t width,
                 int64_t depth);
  void (*pack_b)(void* panel, const PackSource& source, int64_t count, int64_t width,
                 int64_t depth);

  // c [mr, nr] (row stride ldc) = or += panel product over `depth` (a multiple of k_unit).
  void (*multiply)(int mr, int64_t depth, const void* a, const void* b, float* c, int64_t ldc,
                   bool accumulate);

  // Called on a thread before its first and after its last multiply; may be null.
  void (*enter)();
  void (*leave)();

  // c [m, n] (row stride ldc) = x [m, k] w [n, k]^T straight from memory, for few rows; m <= 8.
  void (*multiply_few)(const void* x, int64_t x_stride, int64_t m, const void* w, int64_t w_stride,
                       int64_t n, int64_t k, float* c, int64_t ldc);
};

extern const GemmKernels kGemmF32Portable, kGemmF32Avx2, kGemmF32Avx512;
// bf16 in memory. Those without bf16 instructions widen while packing.
extern const GemmKernels kGemmBf16Portable, kGemmBf16Avx2, kGemmBf16Avx512, kGemmBf16Avx512Bf16;

}  // namespace longgen
