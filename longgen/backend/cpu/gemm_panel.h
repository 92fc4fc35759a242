// Products of packed panels (GemmKernels::multiply), whatever they are packed of. See simd.h.
//
// Op says how: panels hold a Unit a step of k and row or column, of kDepth values of k; row(a) is
// one of A in all lanes of an Operand, columns(b) are kLanes of B, multiply_add(acc, row, columns).
#pragma once

#include <utility>

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

template <typename Op, int kRows>
void multiply_panel(int64_t depth, const void* panel_a, const void* panel_b, float* c, int64_t ldc,
                    bool accumulate) {
  const auto* a = static_cast<const typename Op::Unit*>(panel_a);
  const auto* b = static_cast<const typename Op::Unit*>(panel_b);
  Vf acc[kRows][kNv] = {};
  for (int64_t k = 0; k < depth; k += Op::kDepth, a += kRows, b += kNv * kLanes) {
    typename Op::Operand columns[kNv];
#pragma GCC unroll 4
    for (int j = 0; j < kNv; ++j) columns[j] = Op::columns(b + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const typename Op::Operand row = Op::row(a[i]);
#pragma GCC unroll 4
      for (int j = 0; j < kNv; ++j) acc[i][j] = Op::multiply_add(acc[i][j], row, columns[j]);
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

template <typename Op, typename Rows = std::make_integer_sequence<int, kMr>>
struct Panels;
template <typename Op, int... kRow>
struct Panels<Op, std::integer_sequence<int, kRow...>> {
  static void multiply(int mr, int64_t depth, const void* a, const void* b, float* c, int64_t ldc,
                       bool accumulate) {
    constexpr decltype(&multiply_panel<Op, 1>) kEntries[] = {multiply_panel<Op, kRow + 1>...};
    kEntries[mr - 1](depth, a, b, c, ldc, accumulate);
  }
};

}  // namespace
}  // namespace longgen
