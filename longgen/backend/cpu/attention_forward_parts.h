// How attention forward sizes its tiles and lays out its workspace.
#pragma once

#include "longgen/backend/cpu/attention_tiles.h"

namespace longgen {

AttentionLayout forward_layout(CpuIsa isa, DType dtype, int64_t head_dim, int64_t group);

// What a thread needs, in its piece of the workspace.
struct ForwardScratch {
  uint32_t* q_columns;  // [panels, row_units, kPanel]
  uint32_t* k_rows;     // of packed key tiles, [kMaxTileKeys, row] each
  uint32_t* v_rows;     // [kMaxTileKeys, row]
  uint32_t* v_units;    // likewise
  uint32_t* p[2];       // [kMaxTileKeys, kPanel]; the second for turns
  float* s[2];          // [kMaxTileKeys, kPanel]
  float* out;           // [panels, head_dim, kPanel]
  float* shift;         // [tile_rows]
  float* sum;           // [tile_rows]
  float* rows;          // [kPanel, row]: of a panel, f32
  RowMasks masks;

  ForwardScratch(const AttentionLayout& layout, Pieces& pieces);
};
int64_t forward_scratch_bytes(const AttentionLayout& layout);

// What a part of a split item leaves: outputs not yet divided by their sums.
struct ForwardPartial {
  float* out;  // [tile_rows, head_dim]
  float* shift;
  float* sum;

  ForwardPartial(const AttentionLayout& layout, Pieces& pieces);
};
int64_t forward_partial_bytes(const AttentionLayout& layout);

}  // namespace longgen
