// What the driver of products by tiles (gemm_tiles.h) needs of an instruction set. No function
// bodies here: see simd.h.
//
// C is cut into strips of 32 rows and panels of 32 columns. k goes in steps of 32.
//   B panel   [steps][2][16][16] units of 32 bits: for each step the tiles of columns 0-15 and
//             16-31; a tile's row holds the pair of depths 2r and 2r + 1 of its columns
//   A strip   [steps][32][32] bf16 where it is packed: for each step the rows
//   sums      [panels][32][32] f32; of a whole product (neither accumulated nor left) just [2]
#pragma once

#include <cstdint>

#include "longgen/backend/cpu/gemm_kernels.h"

namespace longgen {

constexpr int64_t kTileStrip = 32, kTilePanel = 32, kTileStep = 32;
constexpr int64_t kTileSums = kTileStrip * kTilePanel;  // f32 of a block

// What becomes of the sums of a strip: out = sums (+ bias) (+ base).
struct TileFinish {
  void* out;  // row 0 of the strip, column 0 of the first panel
  int64_t out_stride;
  bool out_bf16;      // else f32
  const float* bias;  // of the first panel's column 0; may be null
  const void* base;   // as out, and perhaps out itself; may be null
  int64_t base_stride;
  bool stream;            // past the caches: for more than they hold; needs whole lines
  int64_t rows, columns;  // what of strip and panels exists
};

// sums of a strip and consecutive panels = or += A B over `depth`.
struct TileProduct {
  const uint16_t* a;         // row 0, first step
  int64_t a_stride, a_step;  // bytes from row to row and from step to step
  int64_t rows;              // of the strip that exist; up to 16 take one row of tiles
  const uint16_t* b;
  int64_t b_stride;  // bytes from panel to panel
  int64_t panels, depth;
  float* sums;
  bool accumulate;
  const TileFinish* finish;  // null: sums stay
  // What is fetched meanwhile: rows of so many bytes, so many bytes apart; null: nothing.
  const char* ahead;
  int64_t ahead_rows, ahead_bytes, ahead_stride;
};

struct TileKernels {
  // Around products, on the thread that runs them.
  void (*enter)();
  void (*leave)();
  void (*multiply)(const TileProduct& product);
  // Vectors [0, count) (the rest become 0) and depth [0, depth), rounded up to a step with zeros.
  void (*pack_strip)(uint16_t* to, const PackSource& source, int64_t count, int64_t depth);
  void (*pack_panel)(uint16_t* to, const PackSource& source, int64_t count, int64_t depth);
};

extern const TileKernels kTilesAmx;

}  // namespace longgen
