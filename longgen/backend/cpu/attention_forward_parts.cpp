#include "longgen/backend/cpu/attention_forward_parts.h"

namespace longgen {
namespace {

// Rows of a query tile: large enough to use a packed key tile often, small enough that queries and
// outputs of a tile stay in the cache of a core: 2 MB where there are tiles, less elsewhere.
int64_t target_rows(const AttentionKernels& kernels, int64_t head_dim) {
  const int64_t most = kernels.turn != nullptr ? 2048 : 1024;
  return std::clamp<int64_t>(most * 64 / head_dim, 256, most);
}

}  // namespace

AttentionLayout forward_layout(CpuIsa isa, DType dtype, int64_t head_dim, int64_t group) {
  const AttentionKernels& kernels = attention_kernels_for(isa, dtype);
  return {kernels, dtype, head_dim, group, target_rows(kernels, head_dim)};
}

ForwardScratch::ForwardScratch(const AttentionLayout& l, Pieces& pieces)
    : masks(l.tile_rows, pieces) {
  const bool bf16 = l.kernels.bf16_units;
  q_columns = pieces.take<uint32_t>(l.panels() * l.row_units * kPanel);
  k_rows = pieces.take<uint32_t>(kPackedTiles * kMaxTileKeys * l.row_units);
  v_rows = pieces.take<uint32_t>(kMaxTileKeys * l.row_units);
  v_units = pieces.take<uint32_t>(kPackedTiles * kMaxTileKeys * l.row_units);
  for (int i = 0; i < 2; ++i) {
    const bool used = i == 0 || l.kernels.turn != nullptr;
    p[i] = pieces.take<uint32_t>(bf16 && used ? kMaxTileKeys / 2 * kPanel : 0);
    s[i] = pieces.take<float>(used ? kMaxTileKeys * kPanel : 0);
  }
  out = pieces.take<float>(l.panels() * l.head_dim * kPanel);
  shift = pieces.take<float>(l.tile_rows);
  sum = pieces.take<float>(l.tile_rows);
  rows = pieces.take<float>(kPanel * l.row);
}

int64_t forward_scratch_bytes(const AttentionLayout& layout) {
  Pieces pieces(nullptr);
  ForwardScratch scratch(layout, pieces);
  return pieces.used();
}

ForwardPartial::ForwardPartial(const AttentionLayout& l, Pieces& pieces) {
  out = pieces.take<float>(l.tile_rows * l.head_dim);
  shift = pieces.take<float>(l.tile_rows);
  sum = pieces.take<float>(l.tile_rows);
}

int64_t forward_partial_bytes(const AttentionLayout& layout) {
  Pieces pieces(nullptr);
  ForwardPartial partial(layout, pieces);
  return pieces.used();
}

}  // namespace longgen
