// Attention kernels for AMX: products by tiles of 16 rows x 64 bytes, the rest by AVX-512.
//
// A tile of C is 16 x 16 f32; of A 16 rows x 16 units, as stored; of B 16 units of depth x 16
// columns, which is how right operands lie. TDPBF16PS adds their product. All sizes are multiples
// of 16 and depths multiples of 16 units (depth_multiple), so one configuration serves every tile.
#include "longgen/backend/cpu/amx_tiles.h"
#include "longgen/backend/cpu/attention_kernels_impl.h"

namespace longgen {
namespace {

void begin_tiles() { tiles::configure(); }
void end_tiles() { tiles::release(); }

// Tiles 0-3 hold C (kRows x kCols of them), 4 and 5 A, 6 and 7 B.
template <int kRows, int kCols>
void tile_block(const AttentionProduct& p, int64_t i, int64_t j) {
  const auto bytes = [](int64_t units) { return units * 4; };
  const uint32_t* a = p.a + i * p.a_row;
  const uint32_t* b = p.b + j;
  float* c = p.c + i * p.c_row + j;
  float* c_low = c + 16 * p.c_row;
  if (p.accumulate) {
    tiles::load<0>(c, bytes(p.c_row));
    if constexpr (kCols == 2) tiles::load<1>(c + 16, bytes(p.c_row));
    if constexpr (kRows == 2) tiles::load<2>(c_low, bytes(p.c_row));
    if constexpr (kRows == 2 && kCols == 2) tiles::load<3>(c_low + 16, bytes(p.c_row));
  } else {
    tiles::zero<0>();
    if constexpr (kCols == 2) tiles::zero<1>();
    if constexpr (kRows == 2) tiles::zero<2>();
    if constexpr (kRows == 2 && kCols == 2) tiles::zero<3>();
  }
  for (int64_t k = 0; k < p.depth; k += 16) {
    tiles::load<4>(a + k, bytes(p.a_row));
    tiles::load<6>(b + k * p.b_depth, bytes(p.b_depth));
    tiles::dot_bf16<0, 4, 6>();
    if constexpr (kCols == 2) {
      tiles::load<7>(b + k * p.b_depth + 16, bytes(p.b_depth));
      tiles::dot_bf16<1, 4, 7>();
    }
    if constexpr (kRows == 2) {
      tiles::load<5>(a + 16 * p.a_row + k, bytes(p.a_row));
      tiles::dot_bf16<2, 5, 6>();
    }
    if constexpr (kRows == 2 && kCols == 2) tiles::dot_bf16<3, 5, 7>();
  }
  tiles::store<0>(c, bytes(p.c_row));
  if constexpr (kCols == 2) tiles::store<1>(c + 16, bytes(p.c_row));
  if constexpr (kRows == 2) tiles::store<2>(c_low, bytes(p.c_row));
  if constexpr (kRows == 2 && kCols == 2) tiles::store<3>(c_low + 16, bytes(p.c_row));
}

void tile_product(const AttentionProduct& p) {
  int64_t i = 0;
  for (; i + 32 <= p.m; i += 32) {
    int64_t j = 0;
    for (; j + 32 <= p.n; j += 32) tile_block<2, 2>(p, i, j);
    if (j < p.n) tile_block<2, 1>(p, i, j);
  }
  if (i < p.m) {
    int64_t j = 0;
    for (; j + 32 <= p.n; j += 32) tile_block<1, 2>(p, i, j);
    if (j < p.n) tile_block<1, 1>(p, i, j);
  }
}

constexpr AttentionKernels tile_kernels() {
  AttentionKernels kernels = attention_kernels();
  kernels.depth_multiple = 32;
  kernels.rows_only = true;
  kernels.begin = begin_tiles;
  kernels.end = end_tiles;
  kernels.product = tile_product;
  return kernels;
}

}  // namespace

constinit const AttentionKernels kAttentionAmx = tile_kernels();

}  // namespace longgen
