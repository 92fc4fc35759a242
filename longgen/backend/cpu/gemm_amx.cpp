// bf16 products with AMX tiles: 16 x 32 values of A (row-major) times 16 pairs x 16 columns of B
// into 16 x 16 f32 sums; two by two tiles at a time. B panels are those of vdpbf16ps, 32 columns
// wide.
#include "longgen/backend/cpu/gemm_bf16_dot.h"

namespace longgen {
namespace {

constexpr int kTileRows = 16, kTileDepth = 32, kNr = 32;
constexpr int64_t kTileBytes = 1024;

struct alignas(64) TileConfig {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64);

void enter() {
  TileConfig config = {};
  config.palette = 1;
  for (int i = 0; i < 8; ++i) {
    config.row_bytes[i] = 64;
    config.rows[i] = kTileRows;
  }
  // GCC 12 thinks that _tile_loadconfig reads 8 bytes only and may drop the stores of the others.
  __asm__ volatile("" : : "r"(&config) : "memory");
  _tile_loadconfig(&config);
}

void leave() { _tile_release(); }

// Tiles 0-3 hold sums (row by row of tiles), 4-5 A, 6-7 B.
void multiply_two_by_two(int64_t depth, const char* a, const char* b, float* c, int64_t ldc,
                         bool accumulate) {
  const int64_t c_bytes = ldc * 4;
  float* lower = c + kTileRows * ldc;
  if (accumulate) {
    _tile_loadd(0, c, c_bytes);
    _tile_loadd(1, c + 16, c_bytes);
    _tile_loadd(2, lower, c_bytes);
    _tile_loadd(3, lower + 16, c_bytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t k = 0; k < depth; k += kTileDepth, a += 2 * kTileBytes, b += 2 * kTileBytes) {
    _tile_loadd(4, a, 64);
    _tile_loadd(6, b, 128);
    _tile_loadd(7, b + 64, 128);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, a + kTileBytes, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, c_bytes);
  _tile_stored(1, c + 16, c_bytes);
  _tile_stored(2, lower, c_bytes);
  _tile_stored(3, lower + 16, c_bytes);
}

void multiply_one_by_two(int64_t depth, const char* a, const char* b, float* c, int64_t ldc,
                         bool accumulate) {
  const int64_t c_bytes = ldc * 4;
  if (accumulate) {
    _tile_loadd(0, c, c_bytes);
    _tile_loadd(1, c + 16, c_bytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
  }
  for (int64_t k = 0; k < depth; k += kTileDepth, a += kTileBytes, b += 2 * kTileBytes) {
    _tile_loadd(4, a, 64);
    _tile_loadd(6, b, 128);
    _tile_loadd(7, b + 64, 128);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
  }
  _tile_stored(0, c, c_bytes);
  _tile_stored(1, c + 16, c_bytes);
}

void multiply(int mr, int64_t depth, const void* a, const void* b, float* c, int64_t ldc,
              bool accumulate) {
  // The tile loads below do not tell the compiler that they read memory.
  __asm__ volatile("" : : : "memory");
  const char* rows = static_cast<const char*>(a);
  const char* columns = static_cast<const char*>(b);
  if (mr == 2 * kTileRows) {
    multiply_two_by_two(depth, rows, columns, c, ldc, accumulate);
  } else {
    multiply_one_by_two(depth, rows, columns, c, ldc, accumulate);
  }
}

// [depth / 32][width][32]: for each 32 steps, the rows of the panel's tiles.
void pack_tiles(void* to, const PackSource& source, int64_t count, int64_t width, int64_t depth) {
  uint16_t* panel = static_cast<uint16_t*>(to);
  for (int64_t k = 0; k < depth; k += kTileDepth, panel += width * kTileDepth) {
    if (source.k_contiguous) {
      const uint16_t* data = static_cast<const uint16_t*>(source.data);
      for (int64_t i = 0; i < width; ++i) {
        const __m512i row =
            i < count ? load_k(data + i * source.stride, k, 16, depth) : _mm512_setzero_si512();
        _mm512_storeu_si512(panel + i * kTileDepth, row);
      }
      continue;
    }
    for (int64_t i = 0; i < width; i += 16) {
      __m512i r[16];
#pragma GCC unroll 16
      for (int j = 0; j < 16; ++j) r[j] = load_pairs(source, k + 2 * j, depth, i, count);
      transpose(r);
#pragma GCC unroll 16
      for (int j = 0; j < 16; ++j) _mm512_storeu_si512(panel + (i + j) * kTileDepth, r[j]);
    }
  }
}

// Panels of B end at a multiple of 16 pairs.
void pack_pairs_to_tiles(void* to, const PackSource& source, int64_t count, int64_t width,
                         int64_t depth) {
  pack_pairs(to, source, count, width, depth);
  const int64_t packed = (depth + 1) / 2, wanted = (depth + kTileDepth - 1) / kTileDepth * 16;
  uint32_t* panel = static_cast<uint32_t*>(to);
  for (int64_t i = packed * width; i < wanted * width; ++i) panel[i] = 0;
}

}  // namespace

constinit const GemmKernels kGemmBf16Amx = {
    .element_bytes = 2,
    .k_unit = kTileDepth,
    .max_mr = 2 * kTileRows,
    .mr_unit = kTileRows,
    .nr = kNr,
    .max_kc = 640,
    .pack_a = pack_tiles,
    .pack_b = pack_pairs_to_tiles,
    .multiply = multiply,
    .enter = enter,
    .leave = leave,
    .multiply_few = multiply_few<Bf16Dot, uint16_t>,
};

}  // namespace longgen
