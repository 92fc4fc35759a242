// What the vector kernels share: scales and codes of a panel as vectors of kLanes rows. See simd.h.
#pragma once

#include "longgen/backend/cpu/quantized_kernels.h"
#include "longgen/backend/cpu/simd.h"

namespace longgen {
namespace {

using quantized::Layout;

#if defined(__AVX512F__)
using Bytes = __m512i;
LONGGEN_SIMD Bytes load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
LONGGEN_SIMD Bytes splat_byte(int x) { return _mm512_set1_epi8(static_cast<char>(x)); }
template <int kShift>
LONGGEN_SIMD Bytes shift_right(Bytes x) {
  return _mm512_srli_epi16(x, kShift);
}
template <int kShift>
LONGGEN_SIMD Bytes shift_left(Bytes x) {
  return _mm512_slli_epi16(x, kShift);
}
LONGGEN_SIMD Vf load_f16(const uint8_t* p) {
  return (Vf)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
LONGGEN_SIMD Vf load_u8(const uint8_t* p) {
  return (Vf)_mm512_cvtepi32_ps(
      _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
LONGGEN_SIMD Vf load_i8(const uint8_t* p) {
  return (Vf)_mm512_cvtepi32_ps(
      _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
LONGGEN_SIMD Vf to_float(Bytes x) { return (Vf)_mm512_cvtepi32_ps(x); }
LONGGEN_SIMD Bytes splat_int(int32_t x) { return _mm512_set1_epi32(x); }
// x[0] ... x[3] in every lane.
LONGGEN_SIMD Bytes splat_four(const int8_t* x) {
  int32_t four;
  std::memcpy(&four, x, sizeof four);
  return _mm512_set1_epi32(four);
}
#else
using Bytes = __m256i;
LONGGEN_SIMD Bytes load_bytes(const uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
LONGGEN_SIMD Bytes splat_byte(int x) { return _mm256_set1_epi8(static_cast<char>(x)); }
template <int kShift>
LONGGEN_SIMD Bytes shift_right(Bytes x) {
  return _mm256_srli_epi16(x, kShift);
}
template <int kShift>
LONGGEN_SIMD Bytes shift_left(Bytes x) {
  return _mm256_slli_epi16(x, kShift);
}
LONGGEN_SIMD Vf load_f16(const uint8_t* p) {
  return (Vf)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
LONGGEN_SIMD Vf load_u8(const uint8_t* p) {
  return (Vf)_mm256_cvtepi32_ps(
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
LONGGEN_SIMD Vf load_i8(const uint8_t* p) {
  return (Vf)_mm256_cvtepi32_ps(
      _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
LONGGEN_SIMD Vf to_float(Bytes x) { return (Vf)_mm256_cvtepi32_ps(x); }
LONGGEN_SIMD Bytes splat_int(int32_t x) { return _mm256_set1_epi32(x); }
LONGGEN_SIMD Bytes splat_four(const int8_t* x) {
  int32_t four;
  std::memcpy(&four, x, sizeof four);
  return _mm256_set1_epi32(four);
}
#endif

constexpr int kPieces = static_cast<int>(quantized::kPanelRows) / kLanes;  // vectors of a panel

// Codes of block columns 4 g ... 4 g + 3 for the rows of one piece, g = 0 ... 7.
template <int kBits>
LONGGEN_SIMD void load_codes(const uint8_t* codes, int piece, Bytes (&w)[8]) {
  constexpr int kPerHalf = 16 / kLanes;  // pieces of 16 rows
  const int half = piece / kPerHalf;
  const uint8_t* p = codes + half * (kBits == 8 ? 512 : 256) + piece % kPerHalf * 4 * kLanes;
  if constexpr (kBits == 8) {
#pragma GCC unroll 8
    for (int g = 0; g < 8; ++g) w[g] = load_bytes(p + 64 * g);
  } else {
    const Bytes low = splat_byte(15);
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) {
      const Bytes both = load_bytes(p + 64 * g);
      w[g] = both & low;
      w[g + 4] = shift_right<4>(both) & low;
    }
    if constexpr (kBits == 6) {
      const Bytes mask = splat_byte(0x30);
      const uint8_t* q = codes + 512 + half * 128 + piece % kPerHalf * 4 * kLanes;
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        const Bytes high = load_bytes(q + 64 * i);
        w[4 * i] = w[4 * i] | (shift_left<4>(high) & mask);
        w[4 * i + 1] = w[4 * i + 1] | (shift_left<2>(high) & mask);
        w[4 * i + 2] = w[4 * i + 2] | (high & mask);
        w[4 * i + 3] = w[4 * i + 3] | (shift_right<2>(high) & mask);
      }
    }
  }
}

// The scale (of each half block where there are two) and offset of a piece's rows.
struct Scales {
  Vf d[2], m;
};
template <WeightScheme kScheme>
LONGGEN_SIMD Scales load_scales(const uint8_t* head, const uint8_t* block, int piece) {
  const int row = piece * kLanes;
  Scales s = {};
  if constexpr (kScheme == WeightScheme::kQ4_K) {
    s.d[0] = load_f16(head + 2 * row) * load_u8(block + row);
    s.m = load_f16(head + 64 + 2 * row) * -load_u8(block + 32 + row);
  } else if constexpr (kScheme == WeightScheme::kQ6_K) {
    const Vf d = load_f16(head + 2 * row);
    s.d[0] = d * load_i8(block + row);
    s.d[1] = d * load_i8(block + 32 + row);
  } else {
    s.d[0] = load_f16(block + 2 * row);
    if constexpr (kScheme == WeightScheme::kQ4_1) s.m = load_f16(block + 64 + 2 * row);
  }
  return s;
}

// The blocks of a panel from first to last: f(b, head, block).
template <WeightScheme kScheme, typename F>
LONGGEN_SIMD void for_panel_blocks(const uint8_t* panel, int64_t blocks, F&& f) {
  constexpr Layout l = quantized::kLayouts[static_cast<int>(kScheme)];
  const uint8_t* head = panel;
  for (int64_t b = 0; b < blocks; ++b) {
    if (l.shared_blocks > 1 && b % l.shared_blocks == 0) head = panel, panel += l.head_bytes;
    f(b, head, panel);
    panel += l.block_bytes;
  }
}

}  // namespace
}  // namespace longgen
