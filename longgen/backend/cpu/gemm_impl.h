// Product kernels in f32 arithmetic for any vector width, compiled once an instruction set
// (gemm_*.cpp). T is float, or uint16_t for bf16 in memory. See simd.h.
#pragma once

#include "longgen/backend/cpu/gemm_dot.h"
#include "longgen/backend/cpu/gemm_kernels.h"
#include "longgen/backend/cpu/gemm_pack.h"
#include "longgen/backend/cpu/simd.h"

namespace longgen {
namespace {

// Panel rows and vectors of columns: as many accumulators as registers allow beside the operands.
#if defined(__AVX512F__)
constexpr int kMr = 14, kNv = 2;  // 28 of 32
#elif defined(__AVX2__)
constexpr int kMr = 6, kNv = 2;  // 12 of 16
#else
constexpr int kMr = 4, kNv = 2;  // 8 of 16
#endif

template <int kRows>
void multiply_panel(int64_t depth, const float* a, const float* b, float* c, int64_t ldc,
                    bool accumulate) {
  Vf acc[kRows][kNv] = {};
  for (int64_t k = 0; k < depth; ++k, a += kRows, b += kNv * kLanes) {
    Vf column[kNv];
#pragma GCC unroll 4
    for (int j = 0; j < kNv; ++j) column[j] = load(b + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kNv; ++j) {
        acc[i][j] = multiply_add(broadcast(a[i]), column[j], acc[i][j]);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kNv; ++j) {
      float* to = c + i * ldc + j * kLanes;
      store(to, accumulate ? load(to) + acc[i][j] : acc[i][j]);
    }
  }
}

using MultiplyPanel = void (*)(int64_t, const float*, const float*, float*, int64_t, bool);

template <int... kRows>
struct PanelTable {
  static constexpr MultiplyPanel kEntries[] = {multiply_panel<kRows>...};
};
#if defined(__AVX512F__)
using Panels = PanelTable<1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14>;
#elif defined(__AVX2__)
using Panels = PanelTable<1, 2, 3, 4, 5, 6>;
#else
using Panels = PanelTable<1, 2, 3, 4>;
#endif

void multiply(int mr, int64_t depth, const void* a, const void* b, float* c, int64_t ldc,
              bool accumulate) {
  Panels::kEntries[mr - 1](depth, static_cast<const float*>(a), static_cast<const float*>(b), c,
                           ldc, accumulate);
}

template <typename T>
struct FloatDot {
  using Chunk = Vf;
  static constexpr int kStep = kLanes;
  LONGGEN_SIMD static Vf load(const T* p) { return longgen::load(p); }
  LONGGEN_SIMD static Vf load(const T* p, int64_t n) { return longgen::load(p, n); }
  LONGGEN_SIMD static Vf multiply_add(Vf acc, Vf x, Vf w) {
    return longgen::multiply_add(x, w, acc);
  }
};

template <typename T>
constexpr GemmKernels kGemm = {
    .element_bytes = 4,
    .k_unit = 1,
    .max_mr = kMr,
    .mr_unit = 1,
    .nr = kNv* kLanes,
    .max_kc = 320,
    .pack_a = pack_floats<T>,
    .pack_b = pack_floats<T>,
    .multiply = multiply,
    .enter = nullptr,
    .leave = nullptr,
    .multiply_few = multiply_few<FloatDot<T>, T>,
};

}  // namespace
}  // namespace longgen
