// Products of panels, and the rounding of activations. The including file defines
//   template <int kBits> Bytes dot16(Bytes sum, const Bytes* w, const int8_t* x)
// in `namespace longgen { namespace {`: per lane sum + the dot product of 16 weight codes
// (w[g], g < 4, holds those of x[4 g] ... in the lane's bytes) and 16 activation codes. See simd.h.
#pragma once

#include "longgen/backend/cpu/quantized_panel.h"

namespace longgen {
namespace {

template <int kValue>
struct Count {
  static constexpr int value = kValue;
};

template <WeightScheme kScheme, int kRows>
void multiply_rows(const uint8_t* panel, int64_t blocks, const int8_t* codes,
                   const ActivationBlock* info, float* c, int64_t ldc) {
  constexpr Layout l = quantized::kLayouts[static_cast<int>(kScheme)];
  Vf acc[kRows][kPieces] = {};
  for_panel_blocks<kScheme>(
      panel, blocks,
      [&](int64_t b, const uint8_t* head, const uint8_t* at) __attribute__((always_inline)) {
#pragma GCC unroll 4
        for (int piece = 0; piece < kPieces; ++piece) {
          const Scales scales = load_scales<kScheme>(head, at, piece);
          Bytes w[8];
          load_codes<l.bits>(at + l.codes_at, piece, w);
#pragma GCC unroll 8
          for (int r = 0; r < kRows; ++r) {
            const int8_t* x = codes + (r * blocks + b) * quantized::kBlock;
            const ActivationBlock& a = info[r * blocks + b];
            const Vf scale = broadcast(a.scale);
            if constexpr (l.groups == 1) {
              const Bytes first = dot16<l.bits>(splat_int(a.start[0]), w, x);
              const Vf sum = to_float(dot16<l.bits>(first, w + 4, x + 16));
              acc[r][piece] = multiply_add(scales.d[0] * scale, sum, acc[r][piece]);
            } else {
              const Vf first = to_float(dot16<l.bits>(splat_int(a.start[0]), w, x));
              const Vf second = to_float(dot16<l.bits>(splat_int(a.start[1]), w + 4, x + 16));
              acc[r][piece] = multiply_add(scales.d[0] * scale, first, acc[r][piece]);
              acc[r][piece] = multiply_add(scales.d[1] * scale, second, acc[r][piece]);
            }
            if constexpr (l.has_offset) {
              acc[r][piece] = multiply_add(scales.m, broadcast(a.sum), acc[r][piece]);
            }
          }
        }
      });
  for (int r = 0; r < kRows; ++r) {
    for (int piece = 0; piece < kPieces; ++piece)
      store(c + r * ldc + piece * kLanes, acc[r][piece]);
  }
}

template <WeightScheme kScheme>
void multiply(const uint8_t* panel, int64_t blocks, const int8_t* codes,
              const ActivationBlock* info, int64_t rows, float* c, int64_t ldc) {
  const auto take = [&](auto count) {
    constexpr int kRows = decltype(count)::value;
    multiply_rows<kScheme, kRows>(panel, blocks, codes, info, c, ldc);
    codes += kRows * blocks * quantized::kBlock;
    info += kRows * blocks;
    c += kRows * ldc;
    rows -= kRows;
  };
  while (rows >= 8) take(Count<8>{});  // NOLINT(bugprone-infinite-loop): take() lessens rows
  if (rows >= 4) take(Count<4>{});
  if (rows >= 2) take(Count<2>{});
  if (rows >= 1) take(Count<1>{});
}

#if defined(__AVX512F__)
LONGGEN_SIMD Vi max_ints(Vi a, Vi b) { return (Vi)_mm512_max_epi32((__m512i)a, (__m512i)b); }
LONGGEN_SIMD __m128i four_greatest(Vi v) {
  const __m256i half = _mm256_max_epi32(_mm512_castsi512_si256((__m512i)v),
                                        _mm512_extracti64x4_epi64((__m512i)v, 1));
  return _mm_max_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}
template <typename T>
LONGGEN_SIMD __m128i sixteen_codes(const T* x, float factor) {
  return _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32((__m512)(load(x) * factor)));
}
#else
LONGGEN_SIMD Vi max_ints(Vi a, Vi b) { return (Vi)_mm256_max_epi32((__m256i)a, (__m256i)b); }
LONGGEN_SIMD __m128i four_greatest(Vi v) {
  return _mm_max_epi32(_mm256_castsi256_si128((__m256i)v), _mm256_extracti128_si256((__m256i)v, 1));
}
template <typename T>
LONGGEN_SIMD __m128i sixteen_codes(const T* x, float factor) {
  const __m256i a = _mm256_cvtps_epi32((__m256)(load(x) * factor));
  const __m256i b = _mm256_cvtps_epi32((__m256)(load(x + 8) * factor));
  // Packing works within halves of the register: put its quarters in order.
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
  return _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}
#endif
LONGGEN_SIMD int32_t reduce_max_ints(Vi v) {
  const __m128i four = four_greatest(v);
  const __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}

// codes[i] = x[i] * factor to the nearest integer for i < 32, and the sums of either half.
template <typename T>
LONGGEN_SIMD void round_codes(const T* x, float factor, int8_t* codes, int32_t (&sums)[2]) {
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    const __m128i sixteen = sixteen_codes(x + 16 * half, factor);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + 16 * half), sixteen);
    // Sums of unsigned bytes (code + 128) by eights.
    const __m128i eights =
        _mm_sad_epu8(_mm_xor_si128(sixteen, _mm_set1_epi8(-128)), _mm_setzero_si128());
    sums[half] = _mm_cvtsi128_si32(eights) + _mm_extract_epi16(eights, 4) - 16 * 128;
  }
}

// Magnitudes are compared as integers, in which NaN is the greatest of all.
template <typename T>
LONGGEN_SIMD float greatest_magnitude(const T* x) {
  Vi greatest = {};
#pragma GCC unroll 4
  for (int i = 0; i < 32; i += kLanes) {
    const Vi bits = (Vi)load(x + i) & 0x7fffffff;
    greatest = max_ints(greatest, bits);
  }
  const int32_t bits = reduce_max_ints(greatest);
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

template <typename T>
void quantize(const T* x, int64_t blocks, int zero, int groups, int8_t* codes,
              ActivationBlock* info) {
  // Below it the reciprocal would overflow; what is lost is smaller than any f32 rounding that
  // matters.
  constexpr float kSmallest = 1e-30f;
  for (int64_t b = 0; b < blocks; ++b, x += 32, codes += 32, ++info) {
    const float greatest = greatest_magnitude(x);
    const bool tiny = greatest <= kSmallest;  // not for NaN
    const float inverse = tiny ? 0.0f : 127.0f / greatest;
    int32_t sums[2];
    round_codes(x, inverse, codes, sums);
    info->scale = tiny ? 0.0f : greatest / 127.0f;
    info->sum = info->scale * static_cast<float>(sums[0] + sums[1]);
    info->start[0] = -zero * (groups == 1 ? sums[0] + sums[1] : sums[0]);
    info->start[1] = -zero * sums[1];
  }
}

constexpr QuantizedKernels make_quantized_kernels(const char* name) {
  return {.name = name,
          .quantize_f32 = quantize<float>,
          .quantize_bf16 = quantize<uint16_t>,
          .multiply = {nullptr, multiply<WeightScheme::kQ8_0>, multiply<WeightScheme::kQ4_0>,
                       multiply<WeightScheme::kQ4_1>, multiply<WeightScheme::kQ4_K>,
                       multiply<WeightScheme::kQ6_K>}};
}

}  // namespace
}  // namespace longgen
