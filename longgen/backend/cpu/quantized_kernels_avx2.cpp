// Quantised products with vpmaddubsw, whose pairs of products are 16-bit sums: of 4-bit codes eight
// such sums stay within 15 * 127 * 8 = 15,240, of 6-bit codes two within 63 * 127 * 4 = 32,004.
// Sums of 8-bit codes would not fit, so those are widened first. Either way the sums are exact.
#include "longgen/backend/cpu/quantized_panel.h"

namespace longgen {
namespace {

LONGGEN_SIMD Bytes pairs(Bytes w, const int8_t* x) {
  return _mm256_maddubs_epi16(w, splat_four(x));
}

template <int kBits>
LONGGEN_SIMD Bytes dot16(Bytes sum, const Bytes* w, const int8_t* x) {
  const Bytes ones = _mm256_set1_epi16(1);
  if constexpr (kBits == 4) {
    const Bytes first = _mm256_add_epi16(pairs(w[0], x), pairs(w[1], x + 4));
    const Bytes second = _mm256_add_epi16(pairs(w[2], x + 8), pairs(w[3], x + 12));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_add_epi16(first, second), ones));
  } else if constexpr (kBits == 6) {
    const Bytes first = _mm256_add_epi16(pairs(w[0], x), pairs(w[1], x + 4));
    const Bytes second = _mm256_add_epi16(pairs(w[2], x + 8), pairs(w[3], x + 12));
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(first, ones));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(second, ones));
  } else {
    const Bytes even = _mm256_set1_epi16(255);
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) {
      const Bytes four = splat_four(x + 4 * g);
      const Bytes x_even = _mm256_srai_epi16(_mm256_slli_epi16(four, 8), 8);
      const Bytes x_odd = _mm256_srai_epi16(four, 8);
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(w[g] & even, x_even));
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_srli_epi16(w[g], 8), x_odd));
    }
    return sum;
  }
}

}  // namespace
}  // namespace longgen

#include "longgen/backend/cpu/quantized_kernels_impl.h"

namespace longgen {

constinit const QuantizedKernels kQuantizedAvx2 = make_quantized_kernels("avx2");

}  // namespace longgen
