// How attention's backward is cut into work: parts of query tiles, and what a thread needs for
// them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "longgen/backend/cpu/attention_tiles.h"

namespace longgen {

AttentionLayout backward_layout(CpuIsa isa, DType dtype, int64_t head_dim, int64_t group);

// Tokens of a query tile for sequences of `rows` tokens in all that are cut into `parts`.
int64_t backward_tile_tokens(const AttentionLayout& layout, const AttentionPattern& pattern,
                             int64_t rows, int64_t parts);

// Rows of an accumulator of dk or dv for `rows` tokens: the last key tile is whole sixteens.
constexpr int64_t accumulator_rows(int64_t rows) { return rows + 16; }

// Ascending, without empty ones. Throws Error where two overlap.
std::vector<DocumentRange> sorted_documents(std::span<const DocumentRange> documents);

// The query tiles of a contiguous run of tokens, and the rows whose dk and dv they may touch.
struct BackwardPart {
  std::vector<QueryTile> tiles;
  int64_t row_begin = 0, row_end = 0;
};

// Cuts the documents into `count` parts where the work of the tokens before reaches the next share,
// and each part into tiles of at most tile_tokens.
std::vector<BackwardPart> cut_into_parts(const std::vector<DocumentRange>& documents,
                                         const AttentionPattern& pattern, int64_t kv_head,
                                         int64_t count, int64_t tile_tokens);

// Rows whose probabilities are gathered before dk and dv of a key tile take them up: those sums
// pass through memory once a group. Operands of f32 are not gathered: P and dS replace S and dP.
constexpr int64_t kGroupRows = 256;
inline int64_t group_rows(const AttentionLayout& layout) {
  return layout.kernels.bf16_units ? kGroupRows : kPanel;
}

// What a thread needs, in its piece of the workspace.
struct BackwardScratch {
  // Of the query tile, a panel after the other.
  uint32_t* q_columns;  // [row_units, kPanel]
  uint32_t* dout_columns;
  uint32_t* q_paired;  // [kPanel, row_units] or [kPanel / 2, head_dim]
  uint32_t* dout_paired;
  float* dq;     // [head_dim, kPanel]
  float* lse;    // [tile_rows], times log2(e); +inf in padding
  float* delta;  // [tile_rows] sum of dout * out
  RowMasks masks;
  // Of the key tile.
  uint32_t* k_rows;  // [kMaxTileKeys, row]
  uint32_t* v_rows;
  uint32_t* k_units[2];  // by turns
  // Of a panel with the key tile.
  float* s;  // [kMaxTileKeys, kPanel]
  float* dp;
  uint32_t* p_rows;  // [kMaxTileKeys, group_rows]
  uint32_t* ds_rows;
  uint32_t* ds_paired[2];  // [kMaxTileKeys, kPanel], by turns
  float* lse_masked;       // [kPanel]
  uint32_t* rows;          // [kPanel, row] f32

  // Of a query tile so far.
  AttentionGradientPanel panels[2];  // by turns
  int64_t panel_count = 0, key_tile_count = 0;

  BackwardScratch(const AttentionLayout& layout, std::byte* workspace, int64_t thread);
  BackwardScratch(const AttentionLayout& layout, Pieces pieces);

  int64_t bytes;
};
int64_t backward_scratch_bytes(const AttentionLayout& layout);

}  // namespace longgen
