// Attention kernels for AMX: products by tiles of 16 rows x 64 bytes, the rest by AVX-512.
//
// A tile of C is 16 x 16 f32; of A 16 rows x 16 units, as stored; of B 16 units of depth x 16
// columns, which is how right operands lie. TDPBF16PS adds their product. All sizes are multiples
// of 16 and depths multiples of 16 units (depth_multiple), so one configuration serves every tile.
#include "longgen/backend/cpu/amx_tiles.h"
#include "longgen/backend/cpu/attention_kernels_impl.h"
#include "longgen/backend/cpu/attention_turn_amx.h"

namespace longgen {
namespace {

void begin_tiles() { tiles::configure(); }
void end_tiles() { tiles::release(); }

LONGGEN_SIMD int64_t bytes(int64_t units) { return units * 4; }

// Tiles 0-3 hold C (kRows x kCols of them), 4 and 5 A, 6 and 7 B.
template <int kRows, int kCols>
LONGGEN_SIMD void begin_block(const AttentionProduct& p, int64_t i, int64_t j) {
  if (!p.accumulate) {
    tiles::zero<0>();
    if constexpr (kCols == 2) tiles::zero<1>();
    if constexpr (kRows == 2) tiles::zero<2>();
    if constexpr (kRows == 2 && kCols == 2) tiles::zero<3>();
    return;
  }
  const float* c = p.c + i * p.c_row + j;
  const float* c_low = c + 16 * p.c_row;
  tiles::load<0>(c, bytes(p.c_row));
  if constexpr (kCols == 2) tiles::load<1>(c + 16, bytes(p.c_row));
  if constexpr (kRows == 2) tiles::load<2>(c_low, bytes(p.c_row));
  if constexpr (kRows == 2 && kCols == 2) tiles::load<3>(c_low + 16, bytes(p.c_row));
}

template <int kRows, int kCols>
LONGGEN_SIMD void multiply_block(const AttentionProduct& p, int64_t i, int64_t j, int64_t k) {
  const uint32_t* a = p.a + i * p.a_row + k;
  const uint32_t* b = p.b + k * p.b_depth + j;
  tiles::load<4>(a, bytes(p.a_row));
  tiles::load<6>(b, bytes(p.b_depth));
  tiles::dot_bf16<0, 4, 6>();
  if constexpr (kCols == 2) {
    tiles::load<7>(b + 16, bytes(p.b_depth));
    tiles::dot_bf16<1, 4, 7>();
  }
  if constexpr (kRows == 2) {
    tiles::load<5>(a + 16 * p.a_row, bytes(p.a_row));
    tiles::dot_bf16<2, 5, 6>();
  }
  if constexpr (kRows == 2 && kCols == 2) tiles::dot_bf16<3, 5, 7>();
}

template <int kRows, int kCols>
LONGGEN_SIMD void end_block(const AttentionProduct& p, int64_t i, int64_t j) {
  float* c = p.c + i * p.c_row + j;
  float* c_low = c + 16 * p.c_row;
  tiles::store<0>(c, bytes(p.c_row));
  if constexpr (kCols == 2) tiles::store<1>(c + 16, bytes(p.c_row));
  if constexpr (kRows == 2) tiles::store<2>(c_low, bytes(p.c_row));
  if constexpr (kRows == 2 && kCols == 2) tiles::store<3>(c_low + 16, bytes(p.c_row));
}

template <int kRows, int kCols>
void whole_block(const AttentionProduct& p, int64_t i, int64_t j) {
  begin_block<kRows, kCols>(p, i, j);
  for (int64_t k = 0; k < p.depth; k += 16) multiply_block<kRows, kCols>(p, i, j, k);
  end_block<kRows, kCols>(p, i, j);
}

// A block at an edge: less than 32 rows or columns.
[[gnu::noinline]] void edge_block(const AttentionProduct& p, int64_t i, int64_t j) {
  if (i + 32 <= p.m) {
    whole_block<2, 1>(p, i, j);
  } else if (j + 32 <= p.n) {
    whole_block<1, 2>(p, i, j);
  } else {
    whole_block<1, 1>(p, i, j);
  }
}

// A core has few spare tile registers and hands them out in order, so what waits for a sum, or for
// an operand's last use, holds up all tiles behind it. Hence the order below: every operand's
// register is filled again as soon as it is free, and the sums of a block leave one by one, each
// just before its register takes up the next block's.

// Left operands that a product reads once (kStream) should not drive others out of the nearest
// cache.
template <bool kStream, int kTile>
LONGGEN_SIMD void load_left(const uint32_t* a, int64_t row_bytes) {
  if constexpr (kStream) {
    tiles::load_stream<kTile>(a, row_bytes);
  } else {
    tiles::load<kTile>(a, row_bytes);
  }
}

template <int kTile>
LONGGEN_SIMD void begin_tile(const AttentionProduct& p, float* c) {
  if (p.accumulate) {
    tiles::load<kTile>(c, bytes(p.c_row));
  } else {
    tiles::zero<kTile>();
  }
}

// A step whose operands are in tiles 4 to 7; those of the step at a, b are left there. With
// kBegin it is the first of the block of sums at c, and the sums of the last block leave to `last`.
template <bool kStream, bool kBegin, bool kLast>
LONGGEN_SIMD void step(const AttentionProduct& p, const uint32_t* a, const uint32_t* b, float* c,
                       float* last) {
  const int64_t low = 16 * p.c_row;
  if constexpr (kLast) tiles::store<0>(last, bytes(p.c_row));
  if constexpr (kBegin) begin_tile<0>(p, c);
  tiles::dot_bf16<0, 4, 6>();
  if constexpr (kLast) tiles::store<1>(last + 16, bytes(p.c_row));
  if constexpr (kBegin) begin_tile<1>(p, c + 16);
  tiles::dot_bf16<1, 4, 7>();
  load_left<kStream, 4>(a, bytes(p.a_row));
  if constexpr (kLast) tiles::store<2>(last + low, bytes(p.c_row));
  if constexpr (kBegin) begin_tile<2>(p, c + low);
  tiles::dot_bf16<2, 5, 6>();
  tiles::load<6>(b, bytes(p.b_depth));
  if constexpr (kLast) tiles::store<3>(last + low + 16, bytes(p.c_row));
  if constexpr (kBegin) begin_tile<3>(p, c + low + 16);
  tiles::dot_bf16<3, 5, 7>();
  load_left<kStream, 5>(a + 16 * p.a_row, bytes(p.a_row));
  tiles::load<7>(b + 16, bytes(p.b_depth));
}

// The block at i, j, whose first operands are loaded, and loads those of the block at next_i,
// next_j.
template <bool kStream, bool kLast>
LONGGEN_SIMD void block_in_turn(const AttentionProduct& p, int64_t i, int64_t j, int64_t next_i,
                                int64_t next_j, float* last) {
  const uint32_t *a = p.a + i * p.a_row, *next_a = p.a + next_i * p.a_row;
  const uint32_t *b = p.b + j, *next_b = p.b + next_j;
  float* c = p.c + i * p.c_row + j;
  if (p.depth == 16) {
    step<kStream, true, kLast>(p, next_a, next_b, c, last);
    return;
  }
  step<kStream, true, kLast>(p, a + 16, b + 16 * p.b_depth, c, last);
  for (int64_t k = 32; k < p.depth; k += 16) {
    step<kStream, false, false>(p, a + k, b + k * p.b_depth, c, last);
  }
  step<kStream, false, false>(p, next_a, next_b, c, last);
}

// All of m and n in blocks of 32 x 32.
template <bool kStream>
void whole_blocks(const AttentionProduct& p) {
  load_left<kStream, 4>(p.a, bytes(p.a_row));
  tiles::load<6>(p.b, bytes(p.b_depth));
  tiles::load<7>(p.b + 16, bytes(p.b_depth));
  load_left<kStream, 5>(p.a + 16 * p.a_row, bytes(p.a_row));
  float* last = nullptr;
  for (int64_t i = 0; i < p.m; i += 32) {
    for (int64_t j = 0; j < p.n; j += 32) {
      // Behind the last block the first one is loaded again, in vain.
      const int64_t next_j = j + 32 < p.n ? j + 32 : 0;
      const int64_t next_i = next_j > 0 ? i : i + 32 < p.m ? i + 32 : 0;
      if (last == nullptr) {
        block_in_turn<kStream, false>(p, i, j, next_i, next_j, last);
      } else {
        block_in_turn<kStream, true>(p, i, j, next_i, next_j, last);
      }
      last = p.c + i * p.c_row + j;
    }
  }
  end_block<2, 2>(p, p.m - 32, p.n - 32);
}

void tile_product(const AttentionProduct& p) {
  if (p.m % 32 == 0 && p.n % 32 == 0) {
    if (can_hold(p)) {
      if (p.accumulate) {
        held_product<true>(p);
      } else {
        held_product<false>(p);
      }
    } else if (p.n == 32) {
      whole_blocks<true>(p);
    } else {
      whole_blocks<false>(p);
    }
    return;
  }
  for (int64_t i = 0; i < p.m; i += 32) {
    for (int64_t j = 0; j < p.n; j += 32) {
      if (i + 32 <= p.m && j + 32 <= p.n) {
        whole_block<2, 2>(p, i, j);
      } else {
        edge_block(p, i, j);
      }
    }
  }
}

void pair_columns(uint32_t* dst, int64_t dst_row, const uint16_t* src, int64_t src_row,
                  int64_t rows, int64_t cols) {
  const auto half = [](const uint16_t* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  };
  for (int64_t r = 0; r < rows; r += 2 * kLanes) {
    for (int64_t c = 0; c < cols; c += kLanes) {
      Vf x[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        const uint16_t* low = src + (r + 2 * i) * src_row + c;
        const __m512i both =
            _mm512_inserti64x4(_mm512_castsi256_si512(half(low)), half(low + src_row), 1);
        x[i] = (Vf)pair_halves(both);
      }
      transpose_square(x);
      for (int i = 0; i < kLanes; ++i) store_units(dst + (c + i) * dst_row + r / 2, x[i]);
    }
  }
}

constexpr AttentionKernels tile_kernels() {
  AttentionKernels kernels = attention_kernels();
  kernels.depth_multiple = 32;
  kernels.rows_only = true;
  kernels.begin = begin_tiles;
  kernels.end = end_tiles;
  kernels.pair_columns = pair_columns;
  kernels.forward = forward<tile_product>;
  kernels.turn = turn<tile_product>;
  kernels.backward = backward<tile_product>;
  kernels.backward_turn = backward_turn<tile_product>;
  kernels.product = tile_product;
  return kernels;
}

}  // namespace

constinit const AttentionKernels kAttentionAmx = tile_kernels();

}  // namespace longgen
