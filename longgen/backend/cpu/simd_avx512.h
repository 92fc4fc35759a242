// simd.h for code written with AVX-512 intrinsics: the same functions on __m512.
// Include it only from files compiled for avx512 or better; see simd.h on what else they may
// include.
#pragma once

#include <immintrin.h>

#include "longgen/backend/cpu/simd.h"

namespace longgen {
namespace {

// e^x to about 1 ulp; exactly 0 for -inf (simd.h).
LONGGEN_SIMD __m512 exp512(__m512 x) { return (__m512)exp((Vf)x); }
// 16 bf16 as floats, and back (round to nearest even).
LONGGEN_SIMD __m512 load_bf16(const uint16_t* p) { return (__m512)load(p); }
LONGGEN_SIMD void store_bf16(uint16_t* p, __m512 v) { store(p, (Vf)v); }

}  // namespace
}  // namespace longgen
