// What a matrix product is told.
#pragma once

#include <cstdint>

#include "longgen/backend/cuda/launch.h"

namespace longgen::cuda {

// C [m, n] = A B (+ bias [n]) (+ C), row-major, sums in f32. A is stored [m, k], or [k, m] when
// a_transposed; B is stored [k, n], or [n, k] when b_transposed. Strides are of stored rows, in
// elements. A, B and bias have one type, f32 or bf16; C has it or f32.
struct ProductArgs {
  int64_t m = 0, n = 0, k = 0;
  const void *a = nullptr, *b = nullptr;
  void* c = nullptr;
  int64_t a_stride = 0, b_stride = 0, c_stride = 0;
  bool a_transposed = false, b_transposed = false;
  Element type = Element::kBF16, c_type = Element::kBF16;
  const void* bias = nullptr;  // only where C has the type of A and B, and nothing is accumulated
  bool accumulate = false;
  const void* base = nullptr;  // with accumulate: what is added to instead of C, strided like it

  const void* added() const { return base != nullptr ? base : c; }
};

}  // namespace longgen::cuda
