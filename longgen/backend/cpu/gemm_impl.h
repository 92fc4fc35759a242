// Product kernels in f32 arithmetic for any vector width, compiled once an instruction set
// (gemm_*.cpp). T is float, or uint16_t for bf16 in memory. See simd.h.
#pragma once

#include "longgen/backend/cpu/gemm_dot.h"
#include "longgen/backend/cpu/gemm_kernels.h"
#include "longgen/backend/cpu/gemm_pack.h"
#include "longgen/backend/cpu/gemm_panel.h"
#include "longgen/backend/cpu/simd.h"

namespace longgen {
namespace {

struct FloatPanel {
  using Unit = float;
  using Operand = Vf;
  static constexpr int kDepth = 1;
  LONGGEN_SIMD static Vf row(float a) { return broadcast(a); }
  LONGGEN_SIMD static Vf columns(const float* b) { return load(b); }
  LONGGEN_SIMD static Vf multiply_add(Vf acc, Vf row, Vf columns) {
    return longgen::multiply_add(row, columns, acc);
  }
};

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
    .multiply = Panels<FloatPanel>::multiply,
    .enter = nullptr,
    .leave = nullptr,
    .multiply_few = multiply_few<FloatDot<T>, T>,
};

}  // namespace
}  // namespace longgen
