// Products by AMX tiles: two by two tiles of sums, 16 x 16 each, over two tiles of A (16 rows x 32)
// and two of B (16 pairs x 16 columns).
#include "longgen/backend/cpu/amx_tiles.h"
#include "longgen/backend/cpu/gemm_bf16_pack.h"
#include "longgen/backend/cpu/gemm_tile_kernels.h"

namespace longgen {
namespace {

constexpr int64_t kSumsRow = kTilePanel * 4;  // bytes

// Tiles 0-3 hold sums (row by row of tiles), 4-5 A, 6-7 B.
template <int kTileRows>
LONGGEN_SIMD void load_sums(const float* c) {
  tiles::load<0>(c, kSumsRow);
  tiles::load<1>(c + 16, kSumsRow);
  if constexpr (kTileRows == 2) {
    tiles::load<2>(c + 16 * kTilePanel, kSumsRow);
    tiles::load<3>(c + 16 * kTilePanel + 16, kSumsRow);
  }
}
template <int kTileRows>
LONGGEN_SIMD void zero_sums() {
  tiles::zero<0>();
  tiles::zero<1>();
  if constexpr (kTileRows == 2) {
    tiles::zero<2>();
    tiles::zero<3>();
  }
}
template <int kTileRows>
LONGGEN_SIMD void store_sums(float* c) {
  tiles::store<0>(c, kSumsRow);
  tiles::store<1>(c + 16, kSumsRow);
  if constexpr (kTileRows == 2) {
    tiles::store<2>(c + 16 * kTilePanel, kSumsRow);
    tiles::store<3>(c + 16 * kTilePanel + 16, kSumsRow);
  }
}

template <int kTileRows>
LONGGEN_SIMD void multiply_block(const TileProduct& p, const char* b, float* c) {
  if (p.accumulate) {
    load_sums<kTileRows>(c);
  } else {
    zero_sums<kTileRows>();
  }
  const char* a = reinterpret_cast<const char*>(p.a);
  const char* lower = a + 16 * p.a_stride;
  const int64_t stride = p.a_stride, step = p.a_step;
  for (int64_t k = 0; k < p.depth;
       k += kTileStep, a += step, lower += step, b += 2 * tiles::kBytes) {
    tiles::load<4>(a, stride);
    tiles::load<6>(b, tiles::kRowBytes);
    tiles::dot_bf16<0, 4, 6>();
    tiles::load<7>(b + tiles::kBytes, tiles::kRowBytes);
    tiles::dot_bf16<1, 4, 7>();
    if constexpr (kTileRows == 2) {
      tiles::load<5>(lower, stride);
      tiles::dot_bf16<2, 5, 6>();
      tiles::dot_bf16<3, 5, 7>();
    }
  }
  store_sums<kTileRows>(c);
}

// The sums of panel `panel`, from the first-level cache.
template <bool kBf16>
LONGGEN_SIMD void finish_block(const TileFinish& f, const float* c, int64_t column) {
  const int64_t columns = f.columns - column < kTilePanel ? f.columns - column : kTilePanel;
  const auto mask = static_cast<__mmask32>((uint64_t{1} << columns) - 1);
  const auto low = static_cast<__mmask16>(mask), high = static_cast<__mmask16>(mask >> 16);
  __m512 bias[2] = {};
  if (f.bias) {
    bias[0] = _mm512_maskz_loadu_ps(low, f.bias + column);
    bias[1] = _mm512_maskz_loadu_ps(high, f.bias + column + 16);
  }
  for (int64_t r = 0; r < f.rows; ++r, c += kTilePanel) {
    __m512 x = _mm512_load_ps(c), y = _mm512_load_ps(c + 16);
    if (f.bias) {
      x = _mm512_add_ps(x, bias[0]);
      y = _mm512_add_ps(y, bias[1]);
    }
    if constexpr (kBf16) {
      uint16_t* to = static_cast<uint16_t*>(f.out) + r * f.out_stride + column;
      if (f.accumulate) {
        const __m512i old = _mm512_maskz_loadu_epi16(mask, to);
        const auto widen = [](__m256i h) {
          return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
        };
        x = _mm512_add_ps(x, widen(_mm512_castsi512_si256(old)));
        y = _mm512_add_ps(y, widen(_mm512_extracti64x4_epi64(old, 1)));
      }
      _mm512_mask_storeu_epi16(to, mask, (__m512i)_mm512_cvtne2ps_pbh(y, x));
    } else {
      float* to = static_cast<float*>(f.out) + r * f.out_stride + column;
      if (f.accumulate) {
        x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(low, to));
        y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(high, to + 16));
      }
      _mm512_mask_storeu_ps(to, low, x);
      _mm512_mask_storeu_ps(to + 16, high, y);
    }
  }
}

template <int kTileRows>
void multiply_panels(const TileProduct& p) {
  const char* b = reinterpret_cast<const char*>(p.b);
  const int64_t fetch = (p.rows + p.panels - 1) / p.panels;
  for (int64_t j = 0; j < p.panels; ++j, b += p.b_stride) {
    float* c = p.sums + j * kTileSums;
    if (p.ahead) {
      for (int64_t r = j * fetch; r < (j + 1) * fetch && r < p.rows; ++r) {
        for (int64_t i = 0; i < 2 * p.depth; i += 64) {
          __builtin_prefetch(p.ahead + r * p.ahead_stride + i, 0, 2);
        }
      }
    }
    multiply_block<kTileRows>(p, b, c);
    if (!p.finish) continue;
    if (p.finish->out_bf16) {
      finish_block<true>(*p.finish, c, j * kTilePanel);
    } else {
      finish_block<false>(*p.finish, c, j * kTilePanel);
    }
  }
}

void multiply(const TileProduct& p) { p.rows > 16 ? multiply_panels<2>(p) : multiply_panels<1>(p); }

void pack_strip(uint16_t* to, const PackSource& source, int64_t count, int64_t depth) {
  const uint16_t* data = static_cast<const uint16_t*>(source.data);
  for (int64_t k = 0; k < depth; k += kTileStep, to += kTileStrip * kTileStep) {
    if (source.k_contiguous) {
      for (int64_t i = 0; i < kTileStrip; ++i) {
        _mm512_storeu_si512(to + i * kTileStep, i < count
                                                    ? load_k(data + i * source.stride, k, 16, depth)
                                                    : _mm512_setzero_si512());
      }
      continue;
    }
    for (int64_t i = 0; i < kTileStrip; i += 16) {
      __m512i r[16];
#pragma GCC unroll 16
      for (int j = 0; j < 16; ++j) r[j] = load_pairs(source, k + 2 * j, depth, i, count);
      transpose(r);
#pragma GCC unroll 16
      for (int j = 0; j < 16; ++j) _mm512_storeu_si512(to + (i + j) * kTileStep, r[j]);
    }
  }
}

void pack_panel(uint16_t* to, const PackSource& source, int64_t count, int64_t depth) {
  const uint16_t* data = static_cast<const uint16_t*>(source.data);
  for (int64_t k = 0; k < depth; k += kTileStep) {
    for (int64_t i = 0; i < kTilePanel; i += 16, to += tiles::kBytes / 2) {
      __m512i r[16];
      if (source.k_contiguous) {
#pragma GCC unroll 16
        for (int j = 0; j < 16; ++j) {
          r[j] = i + j < count ? load_k(data + (i + j) * source.stride, k, 16, depth)
                               : _mm512_setzero_si512();
        }
        transpose(r);
      } else {
#pragma GCC unroll 16
        for (int j = 0; j < 16; ++j) r[j] = load_pairs(source, k + 2 * j, depth, i, count);
      }
#pragma GCC unroll 16
      for (int j = 0; j < 16; ++j) _mm512_storeu_si512(to + j * 32, r[j]);
    }
  }
}

void enter() { tiles::configure(); }
void leave() { tiles::release(); }

}  // namespace

constinit const TileKernels kTilesAmx = {
    .enter = enter,
    .leave = leave,
    .multiply = multiply,
    .pack_strip = pack_strip,
    .pack_panel = pack_panel,
};

}  // namespace longgen
