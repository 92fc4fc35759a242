// Many rows with quantised weights on AMX. int8 tiles would need their sums scaled and added in f32
// after every 32 columns, since scales change there: 16 cycles of tile product, half of its depth
// unused, then 16 rows of load, convert, scale and add, which are twice as long. Weights widened
// to bf16 once a panel, for all rows, go through full tiles with sums that stay in place.
#include "longgen/backend/cpu/amx_tiles.h"
#include "longgen/backend/cpu/quantized_panel.h"

namespace longgen {
namespace {

constexpr int64_t kTile = 512;  // numbers of a tile of bf16

// Byte j of every lane as f32.
LONGGEN_SIMD Vf byte_of(Bytes w, int j) {
  return to_float(
      _mm512_and_si512(_mm512_srli_epi32(w, static_cast<unsigned>(8 * j)), _mm512_set1_epi32(255)));
}

// a[0], b[0], a[1], b[1], ... in bf16.
LONGGEN_SIMD Bytes interleave(Vf a, Vf b) {
  alignas(64) static constexpr uint16_t kOrder[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                      21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                      11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const Bytes both = (Bytes)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a);
  return _mm512_permutexvar_epi16(_mm512_load_si512(kOrder), both);
}

template <WeightScheme kScheme>
void dequantize(const uint8_t* panel, int64_t blocks, uint16_t* out) {
  constexpr Layout l = quantized::kLayouts[static_cast<int>(kScheme)];
  for_panel_blocks<kScheme>(
      panel,
      blocks, [&](int64_t, const uint8_t* head, const uint8_t* at) __attribute__((always_inline)) {
        for (int piece = 0; piece < kPieces; ++piece, out += kTile) {
          const Scales scales = load_scales<kScheme>(head, at, piece);
          Bytes w[8];
          load_codes<l.bits>(at + l.codes_at, piece, w);
#pragma GCC unroll 8
          for (int g = 0; g < 8; ++g) {
            const Vf d = scales.d[l.groups == 1 ? 0 : g / 4];
            // Both terms are exact, so a code less the code of zero is too.
            const Vf m = l.has_offset ? scales.m : d * static_cast<float>(-l.zero);
#pragma GCC unroll 2
            for (int pair = 0; pair < 2; ++pair) {
              const Vf first = multiply_add(byte_of(w[g], 2 * pair), d, m);
              const Vf second = multiply_add(byte_of(w[g], 2 * pair + 1), d, m);
              _mm512_storeu_si512(out + (2 * g + pair) * 32, interleave(first, second));
            }
          }
        }
      });
}

// Tiles 0-3 are sums, 4 and 5 rows of x, 6 and 7 columns of the weight.
void two_by_two(const uint16_t* x, int64_t x_bytes, const uint16_t* b, int64_t blocks, float* c,
                int64_t c_bytes) {
  const uint16_t* lower = x + 16 * x_bytes / 2;
  tiles::zero<0>();
  tiles::zero<1>();
  tiles::zero<2>();
  tiles::zero<3>();
  for (int64_t k = 0; k < blocks; ++k, x += 32, lower += 32, b += 2 * kTile) {
    tiles::load<4>(x, x_bytes);
    tiles::load<6>(b, 64);
    tiles::dot_bf16<0, 4, 6>();
    tiles::load<7>(b + kTile, 64);
    tiles::dot_bf16<1, 4, 7>();
    tiles::load<5>(lower, x_bytes);
    tiles::dot_bf16<2, 5, 6>();
    tiles::dot_bf16<3, 5, 7>();
  }
  float* below = c + 16 * c_bytes / 4;
  tiles::store<0>(c, c_bytes);
  tiles::store<1>(c + 16, c_bytes);
  tiles::store<2>(below, c_bytes);
  tiles::store<3>(below + 16, c_bytes);
}

void one_by_two(const uint16_t* x, int64_t x_bytes, const uint16_t* b, int64_t blocks, float* c,
                int64_t c_bytes) {
  tiles::zero<0>();
  tiles::zero<1>();
  for (int64_t k = 0; k < blocks; ++k, x += 32, b += 2 * kTile) {
    tiles::load<4>(x, x_bytes);
    tiles::load<6>(b, 64);
    tiles::dot_bf16<0, 4, 6>();
    tiles::load<7>(b + kTile, 64);
    tiles::dot_bf16<1, 4, 7>();
  }
  tiles::store<0>(c, c_bytes);
  tiles::store<1>(c + 16, c_bytes);
}

void multiply(const uint16_t* x, int64_t x_stride, int64_t rows, const uint16_t* b, int64_t panels,
              int64_t blocks, float* c, int64_t ldc) {
  for (int64_t row = 0; row < rows; row += 32) {
    for (int64_t p = 0; p < panels; ++p) {
      const auto part = rows - row >= 32 ? two_by_two : one_by_two;
      part(x + row * x_stride, 2 * x_stride, b + p * blocks * 2 * kTile, blocks,
           c + row * ldc + p * quantized::kPanelRows, 4 * ldc);
    }
  }
}

void enter() { tiles::configure(); }
void leave() { tiles::release(); }

}  // namespace

constinit const QuantizedTileKernels kQuantizedAmx = {
    .dequantize = {nullptr, dequantize<WeightScheme::kQ8_0>, dequantize<WeightScheme::kQ4_0>,
                   dequantize<WeightScheme::kQ4_1>, dequantize<WeightScheme::kQ4_K>,
                   dequantize<WeightScheme::kQ6_K>},
    .multiply = multiply,
    .enter = enter,
    .leave = leave};

}  // namespace longgen
