// Packing of operands for products: panel[k * width + i] = source(i, k). See simd.h.
#pragma once

#include "longgen/backend/cpu/gemm_kernels.h"
#include "longgen/backend/cpu/simd.h"

namespace longgen {
namespace {

LONGGEN_SIMD float as_float(float x) { return x; }
LONGGEN_SIMD float as_float(uint16_t x) { return bf16_to_float(x); }

#if defined(__AVX512F__)

// Rows become columns: four rounds, each swapping blocks twice as wide.
LONGGEN_SIMD void transpose(__m512i (&r)[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {  // within 128-bit lanes, 32-bit pairs
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {  // 64-bit pairs: r[i + c] has column c (mod 4) of 4 rows
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {                                    // 128-bit lanes
    const __m512i a = _mm512_shuffle_i32x4(r[c], r[4 + c], 0x88);  // lanes 0, 2
    const __m512i b = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0x88);
    const __m512i d = _mm512_shuffle_i32x4(r[c], r[4 + c], 0xdd);  // lanes 1, 3
    const __m512i e = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0xdd);
    t[c] = _mm512_shuffle_i32x4(a, b, 0x88);
    t[4 + c] = _mm512_shuffle_i32x4(d, e, 0x88);
    t[8 + c] = _mm512_shuffle_i32x4(a, b, 0xdd);
    t[12 + c] = _mm512_shuffle_i32x4(d, e, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) r[i] = t[i];
}

// 32-bit units (an f32, or two bf16): unit (i, k) of `units` steps comes from row(i, k, n), which
// gives n units of vector i from unit k on.
template <typename Row>
LONGGEN_SIMD void pack_transposed(uint32_t* panel, int64_t count, int64_t width, int64_t units,
                                  Row row) {
  for (int64_t k = 0; k < units; k += 16) {
    const int64_t steps = units - k < 16 ? units - k : 16;
    for (int64_t i = 0; i < width; i += 16) {
      const auto mask = static_cast<__mmask16>(lane_mask(width - i < 16 ? width - i : 16));
      __m512i r[16];
#pragma GCC unroll 16
      for (int j = 0; j < 16; ++j) {
        r[j] = i + j < count ? row(i + j, k, steps) : _mm512_setzero_si512();
      }
      transpose(r);
      uint32_t* to = panel + k * width + i;
#pragma GCC unroll 16
      for (int j = 0; j < 16; ++j) {
        if (j < steps) _mm512_mask_storeu_epi32(to + j * width, mask, r[j]);
      }
    }
  }
}

template <typename T>
LONGGEN_SIMD void pack_k_contiguous(float* panel, const T* source, int64_t stride, int64_t count,
                                    int64_t width, int64_t depth) {
  pack_transposed(reinterpret_cast<uint32_t*>(panel), count, width, depth,
                  [=](int64_t i, int64_t k, int64_t n) {
                    const T* from = source + i * stride + k;
                    return (__m512i)(n == kLanes ? load(from) : load(from, n));
                  });
}

#else

template <typename T>
LONGGEN_SIMD void pack_k_contiguous(float* panel, const T* source, int64_t stride, int64_t count,
                                    int64_t width, int64_t depth) {
  for (int64_t i = 0; i < width; ++i) {
    const T* from = source + i * stride;
    for (int64_t k = 0; k < depth; ++k) panel[k * width + i] = i < count ? as_float(from[k]) : 0;
  }
}

#endif

template <typename T>
void pack_floats(void* to, const PackSource& source, int64_t count, int64_t width, int64_t depth) {
  float* panel = static_cast<float*>(to);
  const T* data = static_cast<const T*>(source.data);
  if (source.k_contiguous) {
    pack_k_contiguous(panel, data, source.stride, count, width, depth);
    return;
  }
  for (int64_t k = 0; k < depth; ++k, panel += width) {
    const T* from = data + k * source.stride;
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) store(panel + i, load(from + i));
    for (; i < count; ++i) panel[i] = as_float(from[i]);
    for (; i < width; ++i) panel[i] = 0;
  }
}

}  // namespace
}  // namespace longgen
