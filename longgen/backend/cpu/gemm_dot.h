// Products of few rows: w is read once, straight from memory, a vector of k at a time. See simd.h.
//
// Op says how: Chunk is kStep values of k; load(p) and load(p, n) read it (what is past n is 0);
// multiply_add(acc, x, w).
#pragma once

#include "longgen/backend/cpu/simd.h"

namespace longgen {
namespace {

// kRows rows of x against kColumns rows of w.
template <typename Op, int kRows, int kColumns, typename T>
LONGGEN_SIMD void dot_block(const T* x, int64_t x_stride, const T* w, int64_t w_stride, int64_t k,
                            float* c, int64_t ldc) {
  Vf acc[kRows][kColumns] = {};
  typename Op::Chunk vw[kColumns];
  int64_t i = 0;
  for (; i + Op::kStep <= k; i += Op::kStep) {
#pragma GCC unroll 4
    for (int j = 0; j < kColumns; ++j) {
      vw[j] = Op::load(w + j * w_stride + i);
      // The rows after these; past the end of w this does nothing.
      __builtin_prefetch(w + (j + kColumns) * w_stride + i);
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const typename Op::Chunk vx = Op::load(x + r * x_stride + i);
#pragma GCC unroll 4
      for (int j = 0; j < kColumns; ++j) acc[r][j] = Op::multiply_add(acc[r][j], vx, vw[j]);
    }
  }
  if (i < k) {
#pragma GCC unroll 4
    for (int j = 0; j < kColumns; ++j) vw[j] = Op::load(w + j * w_stride + i, k - i);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const typename Op::Chunk vx = Op::load(x + r * x_stride + i, k - i);
#pragma GCC unroll 4
      for (int j = 0; j < kColumns; ++j) acc[r][j] = Op::multiply_add(acc[r][j], vx, vw[j]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    if constexpr (kColumns == 4) {
      reduce_sums(acc[r], c + r * ldc);
    } else {
      for (int j = 0; j < kColumns; ++j) c[r * ldc + j] = reduce_sum(acc[r][j]);
    }
  }
}

template <typename Op, int kRows, typename T>
void dot_rows(const T* x, int64_t x_stride, const T* w, int64_t w_stride, int64_t columns,
              int64_t k, float* c, int64_t ldc) {
  if (columns == 4) {
    dot_block<Op, kRows, 4>(x, x_stride, w, w_stride, k, c, ldc);
    return;
  }
  for (int64_t j = 0; j < columns; ++j) {
    dot_block<Op, kRows, 1>(x, x_stride, w + j * w_stride, w_stride, k, c + j, ldc);
  }
}

// GemmKernels::multiply_few.
template <typename Op, typename T>
void multiply_few(const void* x_data, int64_t x_stride, int64_t m, const void* w_data,
                  int64_t w_stride, int64_t n, int64_t k, float* c, int64_t ldc) {
  const T* x = static_cast<const T*>(x_data);
  const T* w = static_cast<const T*>(w_data);
  // A few rows of w at a time, so that all rows of x use them from the first-level cache.
  for (int64_t j = 0; j < n; j += 4) {
    const int64_t columns = n - j < 4 ? n - j : 4;
    const T* part = w + j * w_stride;
    int64_t r = 0;
    for (; r + 4 <= m; r += 4) {
      dot_rows<Op, 4>(x + r * x_stride, x_stride, part, w_stride, columns, k, c + r * ldc + j, ldc);
    }
    for (; r + 2 <= m; r += 2) {
      dot_rows<Op, 2>(x + r * x_stride, x_stride, part, w_stride, columns, k, c + r * ldc + j, ldc);
    }
    for (; r < m; ++r) {
      dot_rows<Op, 1>(x + r * x_stride, x_stride, part, w_stride, columns, k, c + r * ldc + j, ldc);
    }
  }
}

}  // namespace
}  // namespace longgen
