// Packing of bf16 pairs: 32-bit unit (k / 2, i) holds source(i, k) and source(i, k + 1). See
// simd.h.
#pragma once

#include "longgen/backend/cpu/gemm_pack.h"

namespace longgen {
namespace {

// 16 units of a row of pairs: values i ... i + n of vectors k and k + 1, which begin at `even` and
// `odd` (null: zeros).
LONGGEN_SIMD __m512i pair_up(const uint16_t* even, const uint16_t* odd, int64_t n) {
  const auto mask = static_cast<__mmask16>(lane_mask(n));
  const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, even));
  if (!odd) return low;
  const __m512i high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, odd));
  return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

// The pairs of steps k and k + 1 for values i ... of a source whose k are not contiguous.
LONGGEN_SIMD __m512i load_pairs(const PackSource& source, int64_t k, int64_t depth, int64_t i,
                                int64_t count) {
  if (i >= count || k >= depth) return _mm512_setzero_si512();
  const uint16_t* even = static_cast<const uint16_t*>(source.data) + k * source.stride + i;
  const int64_t left = count - i;
  return pair_up(even, k + 1 < depth ? even + source.stride : nullptr, left < 16 ? left : 16);
}

// `n` pairs (1 ... 16) of a vector from step k on; what is past `depth` is 0.
LONGGEN_SIMD __m512i load_k(const uint16_t* vector, int64_t k, int64_t n, int64_t depth) {
  const int64_t left = depth - k, most = 2 * n;
  const int64_t values = left < most ? left : most;
  const auto mask = static_cast<__mmask32>((uint64_t{1} << values) - 1);
  return _mm512_maskz_loadu_epi16(mask, vector + k);
}

[[maybe_unused]] void pack_pairs(void* to, const PackSource& source, int64_t count, int64_t width,
                                 int64_t depth) {
  uint32_t* panel = static_cast<uint32_t*>(to);
  const int64_t pairs = (depth + 1) / 2;
  if (source.k_contiguous) {
    const uint16_t* data = static_cast<const uint16_t*>(source.data);
    pack_transposed(panel, count, width, pairs, [=](int64_t i, int64_t k, int64_t n) {
      return load_k(data + i * source.stride, 2 * k, n, depth);
    });
    return;
  }
  for (int64_t k = 0; k < pairs; ++k, panel += width) {
    for (int64_t i = 0; i < width; i += 16) {
      const auto mask = static_cast<__mmask16>(lane_mask(width - i < 16 ? width - i : 16));
      _mm512_mask_storeu_epi32(panel + i, mask, load_pairs(source, 2 * k, depth, i, count));
    }
  }
}

}  // namespace
}  // namespace longgen
