// bf16 products with AMX tiles: 16 x 32 values of A (row-major) times 16 pairs x 16 columns of B
// into 16 x 16 f32 sums; two by two tiles at a time. B panels are those of vdpbf16ps, 32 columns
// wide.
#include "longgen/backend/cpu/amx_tiles.h"
#include "longgen/backend/cpu/gemm_bf16_dot.h"

namespace longgen {
namespace {

constexpr int kTileRows = tiles::kRows, kTileDepth = 32, kNr = 32;
constexpr int64_t kTileBytes = tiles::kBytes;

void enter() { tiles::configure(); }
void leave() { tiles::release(); }

// Tiles 0-3 hold sums (row by row of tiles), 4-5 A, 6-7 B.
void multiply_two_by_two(int64_t depth, const char* a, const char* b, float* c, int64_t ldc,
                         bool accumulate) {
  const int64_t c_bytes = ldc * 4;
  float* lower = c + kTileRows * ldc;
  if (accumulate) {
    tiles::load<0>(c, c_bytes);
    tiles::load<1>(c + 16, c_bytes);
    tiles::load<2>(lower, c_bytes);
    tiles::load<3>(lower + 16, c_bytes);
  } else {
    tiles::zero<0>();
    tiles::zero<1>();
    tiles::zero<2>();
    tiles::zero<3>();
  }
  for (int64_t k = 0; k < depth; k += kTileDepth, a += 2 * kTileBytes, b += 2 * kTileBytes) {
    tiles::load<4>(a, 64);
    tiles::load<6>(b, 128);
    tiles::load<7>(b + 64, 128);
    tiles::dot_bf16<0, 4, 6>();
    tiles::dot_bf16<1, 4, 7>();
    tiles::load<5>(a + kTileBytes, 64);
    tiles::dot_bf16<2, 5, 6>();
    tiles::dot_bf16<3, 5, 7>();
  }
  tiles::store<0>(c, c_bytes);
  tiles::store<1>(c + 16, c_bytes);
  tiles::store<2>(lower, c_bytes);
  tiles::store<3>(lower + 16, c_bytes);
}

void multiply_one_by_two(int64_t depth, const char* a, const char* b, float* c, int64_t ldc,
                         bool accumulate) {
  const int64_t c_bytes = ldc * 4;
  if (accumulate) {
    tiles::load<0>(c, c_bytes);
    tiles::load<1>(c + 16, c_bytes);
  } else {
    tiles::zero<0>();
    tiles::zero<1>();
  }
  for (int64_t k = 0; k < depth; k += kTileDepth, a += kTileBytes, b += 2 * kTileBytes) {
    tiles::load<4>(a, 64);
    tiles::load<6>(b, 128);
    tiles::load<7>(b + 64, 128);
    tiles::dot_bf16<0, 4, 6>();
    tiles::dot_bf16<1, 4, 7>();
  }
  tiles::store<0>(c, c_bytes);
  tiles::store<1>(c + 16, c_bytes);
}

void multiply(int mr, int64_t depth, const void* a, const void* b, float* c, int64_t ldc,
              bool accumulate) {
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
