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

// The operands of one step: A in tiles 4 and 5, B in 6 and 7. B is read once a strip: its lines are
// not to drive A's out of the first-level cache.
template <int kTileRows>
struct Operands {
  int64_t stride;  // of A

  LONGGEN_SIMD void load(const char* a, const char* b) const {
    tiles::load<4>(a, stride);
    tiles::load_stream<6>(b, tiles::kRowBytes);
    tiles::load_stream<7>(b + tiles::kBytes, tiles::kRowBytes);
    if constexpr (kTileRows == 2) tiles::load<5>(a + 16 * stride, stride);
  }
  // The step that is loaded, and each tile of the next one as soon as its register is free: a core
  // that shares its tile registers with another thread does not rename them.
  LONGGEN_SIMD void multiply_and_load(const char* a, const char* b) const {
    tiles::dot_bf16<0, 4, 6>();
    tiles::dot_bf16<1, 4, 7>();
    tiles::load<4>(a, stride);
    if constexpr (kTileRows == 2) tiles::dot_bf16<2, 5, 6>();
    tiles::load_stream<6>(b, tiles::kRowBytes);
    if constexpr (kTileRows == 2) {
      tiles::dot_bf16<3, 5, 7>();
      tiles::load<5>(a + 16 * stride, stride);
    }
    tiles::load_stream<7>(b + tiles::kBytes, tiles::kRowBytes);
  }
};

// Rows [begin, end) of the sums `c` of the panel that begins at `column`.
template <bool kBf16>
LONGGEN_SIMD void finish_rows(const TileFinish& f, const float* c, int64_t column, int64_t begin,
                              int64_t end) {
  const int64_t columns = f.columns - column < kTilePanel ? f.columns - column : kTilePanel;
  const auto mask = static_cast<__mmask32>((uint64_t{1} << columns) - 1);
  const auto low = static_cast<__mmask16>(mask), high = static_cast<__mmask16>(mask >> 16);
  if (end > f.rows) end = f.rows;
  for (int64_t r = begin; r < end; ++r) {
    __m512 x = _mm512_load_ps(c + r * kTilePanel), y = _mm512_load_ps(c + r * kTilePanel + 16);
    if (f.bias) {
      x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(low, f.bias + column));
      y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(high, f.bias + column + 16));
    }
    if constexpr (kBf16) {
      uint16_t* to = static_cast<uint16_t*>(f.out) + r * f.out_stride + column;
      if (f.base) {
        const uint16_t* base = static_cast<const uint16_t*>(f.base) + r * f.base_stride + column;
        const __m512i old = _mm512_maskz_loadu_epi16(mask, base);
        const auto widen = [](__m256i h) {
          return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
        };
        x = _mm512_add_ps(x, widen(_mm512_castsi512_si256(old)));
        y = _mm512_add_ps(y, widen(_mm512_extracti64x4_epi64(old, 1)));
      }
      _mm512_mask_storeu_epi16(to, mask, (__m512i)_mm512_cvtne2ps_pbh(y, x));
    } else {
      float* to = static_cast<float*>(f.out) + r * f.out_stride + column;
      if (f.base) {
        const float* base = static_cast<const float*>(f.base) + r * f.base_stride + column;
        x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(low, base));
        y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(high, base + 16));
      }
      if (f.stream) {
        _mm512_stream_ps(to, x);
        _mm512_stream_ps(to + 16, y);
        continue;
      }
      _mm512_mask_storeu_ps(to, low, x);
      _mm512_mask_storeu_ps(to + 16, high, y);
    }
  }
}

// Fetches rows [begin, end) of what `column` and on becomes, to be written, and of what is added to
// it: their lines are pages apart, so that the processor does not see them coming.
template <bool kBf16>
LONGGEN_SIMD void fetch_rows(const TileFinish& f, int64_t column, int64_t begin, int64_t end) {
  constexpr int64_t kSize = kBf16 ? 2 : 4;
  if (end > f.rows) end = f.rows;
  const bool apart = f.base && f.base != f.out;
  for (int64_t r = begin; r < end; ++r) {
    const char* to = static_cast<const char*>(f.out) + (r * f.out_stride + column) * kSize;
    const char* base = static_cast<const char*>(f.base) + (r * f.base_stride + column) * kSize;
    for (int64_t i = 0; i < kTilePanel * kSize; i += 64) {
      __asm__ volatile("prefetchw %0" : : "m"(to[i]));
      if (apart) __builtin_prefetch(base + i, 0, 3);
    }
  }
}

// Fetches the share of `panel` in the rows that come next.
LONGGEN_SIMD void fetch_ahead(const TileProduct& p, int64_t panel) {
  if (!p.ahead) return;
  const int64_t share = (p.ahead_rows + p.panels - 1) / p.panels;
  for (int64_t r = panel * share; r < (panel + 1) * share && r < p.ahead_rows; ++r) {
    for (int64_t i = 0; i < p.ahead_bytes; i += 64) {
      __builtin_prefetch(p.ahead + r * p.ahead_stride + i, 0, 2);
    }
  }
}

// The sums of a panel leave, a few rows a step, between the products of the next one: the tile
// and vector units work side by side even where the processor looks ahead only a little.
template <int kTileRows, bool kBf16>
void multiply_panels(const TileProduct& p) {
  const Operands<kTileRows> operands{p.a_stride};
  const TileFinish* finish = p.finish;
  const char* a = reinterpret_cast<const char*>(p.a);
  const char* b = reinterpret_cast<const char*>(p.b);
  const int64_t steps = p.depth / kTileStep;
  const int64_t rows_a_step = (p.rows + steps - 1) / steps;
  const bool whole = finish && !p.accumulate;  // sums are not needed again once they have left
  const auto sums = [&](int64_t panel) { return p.sums + (whole ? panel % 2 : panel) * kTileSums; };
  operands.load(a, b);
  for (int64_t j = 0; j < p.panels; ++j, b += p.b_stride) {
    float* c = sums(j);
    const float* leaving = finish && j > 0 ? sums(j - 1) : nullptr;
    fetch_ahead(p, j);
    p.accumulate ? load_sums<kTileRows>(c) : zero_sums<kTileRows>();
    int64_t row = 0;
    for (int64_t k = 1; k <= steps; ++k) {
      // Behind the last step the next panel begins; behind the last panel the tiles are not used.
      const bool more = k < steps;
      const char* next_a = more ? a + k * p.a_step : a;
      const char* next_b = more ? b + k * 2 * tiles::kBytes : j + 1 < p.panels ? b + p.b_stride : b;
      operands.multiply_and_load(next_a, next_b);
      if (finish && !finish->stream) {
        fetch_rows<kBf16>(*finish, j * kTilePanel, row, row + rows_a_step);
      }
      if (leaving) {
        finish_rows<kBf16>(*finish, leaving, (j - 1) * kTilePanel, row, row + rows_a_step);
      }
      row += rows_a_step;
    }
    store_sums<kTileRows>(c);
  }
  if (!finish) return;
  finish_rows<kBf16>(*finish, sums(p.panels - 1), (p.panels - 1) * kTilePanel, 0, p.rows);
  if (finish->stream) _mm_sfence();  // before another thread is told that they are there
}

template <int kTileRows>
void multiply_rows(const TileProduct& p) {
  p.finish&& p.finish->out_bf16 ? multiply_panels<kTileRows, true>(p)
                                : multiply_panels<kTileRows, false>(p);
}

void multiply(const TileProduct& p) { p.rows > 16 ? multiply_rows<2>(p) : multiply_rows<1>(p); }

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

// Fetches what a step of packing reads two steps later where a vector's neighbours lie a row apart.
LONGGEN_SIMD void fetch_steps(const PackSource& source, int64_t k, int64_t depth) {
  const char* data = static_cast<const char*>(source.data);
  const int64_t end = k + 3 * kTileStep < depth ? k + 3 * kTileStep : depth;
  for (int64_t r = k + 2 * kTileStep; r < end; ++r) {
    __builtin_prefetch(data + 2 * r * source.stride, 0, 3);
  }
}

void pack_panel(uint16_t* to, const PackSource& source, int64_t count, int64_t depth) {
  const uint16_t* data = static_cast<const uint16_t*>(source.data);
  for (int64_t k = 0; k < depth; k += kTileStep) {
    if (!source.k_contiguous) fetch_steps(source, k, depth);
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
