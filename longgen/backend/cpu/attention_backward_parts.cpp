#include "longgen/backend/cpu/attention_backward_parts.h"

#include "longgen/base/error.h"

namespace longgen {
namespace {

// Queries, their gradients and operands of a tile should stay in the cache of a core, and a tile
// long enough that fetching accumulators of dk and dv costs little.
int64_t target_rows(int64_t head_dim) { return std::clamp<int64_t>(65536 / head_dim, 64, 1024); }
// Parts come out even when they are cut from many tiles.
constexpr int64_t kTilesPerPart = 16;

}  // namespace

AttentionLayout backward_layout(CpuIsa isa, DType dtype, int64_t head_dim, int64_t group) {
  return {attention_kernels_for(isa, dtype), dtype, head_dim, group, target_rows(head_dim)};
}

int64_t backward_tile_tokens(const AttentionLayout& layout, const AttentionPattern& pattern,
                             int64_t rows, int64_t parts) {
  return tile_tokens_for(pattern, rows, parts == 1 ? 1 : parts * kTilesPerPart, layout.tile_tokens);
}

std::vector<DocumentRange> sorted_documents(std::span<const DocumentRange> documents) {
  std::vector<DocumentRange> out(documents.begin(), documents.end());
  std::sort(out.begin(), out.end(),
            [](const auto& x, const auto& y) { return x.row_begin < y.row_begin; });
  std::erase_if(out, [](const DocumentRange& d) { return d.row_count == 0; });
  for (size_t i = 1; i < out.size(); ++i) {
    const DocumentRange& before = out[i - 1];
    require(before.row_begin + before.row_count <= out[i].row_begin,
            "cpu attention: documents at rows {} + {} and {} + {} overlap", before.row_begin,
            before.row_count, out[i].row_begin, out[i].row_count);
  }
  return out;
}

std::vector<BackwardPart> cut_into_parts(const std::vector<QueryTile>& tiles,
                                         const std::vector<DocumentRange>& documents,
                                         const AttentionPattern& pattern, int64_t kv_head,
                                         int64_t count) {
  std::vector<double> before(tiles.size() + 1, 0);
  for (size_t i = 0; i < tiles.size(); ++i) {
    const auto pairs = pattern.pairs(tiles[i].begin, tiles[i].end, kv_head);
    before[i + 1] = before[i] + static_cast<double>(pairs);
  }
  const auto first_row = [&](const QueryTile& tile) {
    return documents[static_cast<size_t>(tile.sequence)].row_begin;
  };
  std::vector<BackwardPart> parts(static_cast<size_t>(count));
  size_t tile = 0;
  for (size_t p = 0; p < parts.size(); ++p) {
    BackwardPart& part = parts[p];
    part.tile_begin = tile;
    const double goal = before.back() * static_cast<double>(p + 1) / static_cast<double>(count);
    while (tile < tiles.size() && (before[tile] + before[tile + 1]) / 2 < goal) ++tile;
    part.tile_end = tile;
    if (part.tile_begin == part.tile_end) continue;
    part.row_begin = first_row(tiles[part.tile_begin]);
    part.row_end = first_row(tiles[tile - 1]) + tiles[tile - 1].end;
  }
  return parts;
}

BackwardScratch::BackwardScratch(const AttentionLayout& l, Pieces pieces)
    : masks(l.tile_rows, pieces) {
  const int64_t tile = l.panels() * l.row_units * kPanel;
  const bool bf16 = l.kernels.bf16_units;
  for (uint32_t** p : {&q_columns, &dout_columns, &q_paired, &dout_paired}) {
    *p = pieces.take<uint32_t>(tile);
  }
  dq = pieces.take<float>(l.tile_rows * l.head_dim);
  lse = pieces.take<float>(l.tile_rows);
  delta = pieces.take<float>(l.tile_rows);
  k_rows = pieces.take<uint32_t>(kMaxTileKeys * l.row_units);
  v_rows = pieces.take<uint32_t>(kMaxTileKeys * l.row_units);
  for (uint32_t*& p : k_units) {
    p = pieces.take<uint32_t>(bf16 ? kMaxTileKeys / 2 * l.head_dim : 0);
  }
  s = pieces.take<float>(kMaxTileKeys * kPanel);
  dp = pieces.take<float>(kMaxTileKeys * kPanel);
  for (uint32_t** p : {&p_rows, &ds_rows}) {
    *p = pieces.take<uint32_t>(bf16 ? kMaxTileKeys * group_rows(l) / 2 : 0);
  }
  for (uint32_t*& p : ds_paired) {
    p = pieces.take<uint32_t>(bf16 ? kMaxTileKeys * kPanel / 2 : 0);
  }
  if (!bf16) {
    p_rows = reinterpret_cast<uint32_t*>(s);
    ds_rows = reinterpret_cast<uint32_t*>(dp);
  }
  lse_masked = pieces.take<float>(kPanel);
  rows = pieces.take<uint32_t>(kPanel * l.row);
  bytes = pieces.used();
}

BackwardScratch::BackwardScratch(const AttentionLayout& layout, std::byte* workspace,
                                 int64_t thread)
    : BackwardScratch(layout, Pieces(workspace + thread * backward_scratch_bytes(layout))) {}

int64_t backward_scratch_bytes(const AttentionLayout& layout) {
  return BackwardScratch(layout, Pieces(nullptr)).bytes;
}

}  // namespace longgen
