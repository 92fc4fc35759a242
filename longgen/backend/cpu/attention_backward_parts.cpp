#include "longgen/backend/cpu/attention_backward_parts.h"

#include "longgen/base/error.h"

namespace longgen {
namespace {

// Queries, their gradients and operands of a tile should stay in the cache of a core, and a tile
// long enough that fetching accumulators of dk and dv costs little.
int64_t target_rows(int64_t head_dim) { return std::clamp<int64_t>(65536 / head_dim, 64, 1024); }
// Documents are cut into parts at multiples of this, so that parts come out even.
constexpr int64_t kStripTokens = 64;

}  // namespace

AttentionLayout backward_layout(CpuIsa isa, DType dtype, int64_t head_dim, int64_t group) {
  return {attention_kernels_for(isa, dtype), dtype, head_dim, group, target_rows(head_dim)};
}

int64_t backward_tile_tokens(const AttentionLayout& layout, const AttentionPattern& pattern,
                             int64_t rows, int64_t parts) {
  return tile_tokens_for(pattern, rows, parts, layout.tile_tokens);
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

std::vector<BackwardPart> cut_into_parts(const std::vector<DocumentRange>& documents,
                                         const AttentionPattern& pattern, int64_t kv_head,
                                         int64_t count, int64_t tile_tokens) {
  struct Strip {
    size_t document;
    int64_t begin, end;
  };
  std::vector<Strip> strips;
  std::vector<double> before{0};
  for (size_t d = 0; d < documents.size(); ++d) {
    for (int64_t begin = 0; begin < documents[d].row_count; begin += kStripTokens) {
      const int64_t end = std::min(begin + kStripTokens, documents[d].row_count);
      strips.push_back({d, begin, end});
      before.push_back(before.back() + static_cast<double>(pattern.pairs(begin, end, kv_head)));
    }
  }
  std::vector<BackwardPart> parts(static_cast<size_t>(count));
  size_t at = 0;
  for (size_t p = 0; p < parts.size(); ++p) {
    BackwardPart& part = parts[p];
    const size_t first = at;
    const double goal = before.back() * static_cast<double>(p + 1) / static_cast<double>(count);
    while (at < strips.size() && (before[at] + before[at + 1]) / 2 < goal) ++at;
    if (first == at) continue;
    part.row_begin = documents[strips[first].document].row_begin;
    part.row_end = documents[strips[at - 1].document].row_begin + strips[at - 1].end;
    for (size_t i = first, next = first; i < at; i = next) {
      while (next < at && strips[next].document == strips[i].document) ++next;
      append_query_tiles(part.tiles, static_cast<int64_t>(strips[i].document), strips[i].begin,
                         strips[next - 1].end, tile_tokens, pattern.block_size);
    }
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
