// bf16 products of few rows with vdpbf16ps. See simd.h.
#pragma once

#include "longgen/backend/cpu/gemm_bf16_pack.h"
#include "longgen/backend/cpu/gemm_dot.h"

namespace longgen {
namespace {

struct Bf16Dot {
  using Chunk = __m512i;
  static constexpr int kStep = 32;
  LONGGEN_SIMD static __m512i load(const uint16_t* p) { return _mm512_loadu_si512(p); }
  LONGGEN_SIMD static __m512i load(const uint16_t* p, int64_t n) { return load_k(p, 0, 16, n); }
  LONGGEN_SIMD static Vf multiply_add(Vf acc, __m512i x, __m512i w) {
    return (Vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)x, (__m512bh)w);
  }
};

}  // namespace
}  // namespace longgen
