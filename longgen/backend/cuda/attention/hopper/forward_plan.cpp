#include "longgen/backend/cuda/attention/hopper/forward_plan.h"

#include <algorithm>
#include <array>

#include "longgen/backend/cuda/attention/hopper/tensor_map.h"

namespace longgen::cuda::hopper {
namespace {

constexpr int32_t kPanel = 64;  // channels of a box: one swizzled row

// (channel, token, head, page), with pages of `tokens` tokens.
CUtensorMap kv_map(const SequenceArgs& s, const void* data, int64_t tokens, int64_t kv_heads,
                   int64_t pages, int64_t head_dim) {
  const std::array<int64_t, 4> sizes = {head_dim, tokens, kv_heads, pages};
  const std::array<int64_t, 3> strides = {s.token_stride, s.head_stride, s.page_stride};
  const std::array<int32_t, 4> box = {kPanel, kBlock, 1, 1};
  return make_tensor_map({.data = data, .sizes = sizes, .strides = strides, .box = box});
}

CUtensorMap query_map(const void* data, int64_t row_stride, int64_t head_stride, int64_t rows,
                      int64_t heads, int64_t head_dim, int32_t box_rows) {
  const std::array<int64_t, 3> sizes = {head_dim, rows, heads};
  const std::array<int64_t, 2> strides = {row_stride, head_stride};
  const std::array<int32_t, 3> box = {kPanel, box_rows, 1};
  return make_tensor_map({.data = data, .sizes = sizes, .strides = strides, .box = box});
}

}  // namespace

bool takes_forward(const ForwardArgs& call) {
  return tile_rows(call.head_dim) > 0 && 1 << call.pattern.block_shift == kBlock;
}

std::vector<Tile> forward_tiles(std::span<const SequenceArgs> sequences, int rows) {
  std::vector<Tile> tiles;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const SequenceArgs& s = sequences[i];
    const int64_t end = s.first_position + s.row_count;
    for (int64_t at = s.first_position / kBlock * kBlock; s.row_count > 0 && at < end; at += rows) {
      tiles.push_back({static_cast<int32_t>(i), static_cast<int32_t>(at)});
    }
  }
  std::ranges::stable_sort(tiles, std::greater<>(), &Tile::first);
  return tiles;
}

std::vector<KvMaps> forward_kv_maps(std::span<const SequenceArgs> sequences,
                                    std::span<const int64_t> pages, int64_t kv_heads,
                                    int64_t head_dim) {
  std::vector<KvMaps> maps(sequences.size());
  for (size_t i = 0; i < sequences.size(); ++i) {
    const SequenceArgs& s = sequences[i];
    if (s.row_count == 0) continue;
    const int64_t blocks = (s.length + kBlock - 1) / kBlock;
    const bool paged = pages[i] > 0 || s.page_stride != kBlock * s.token_stride;
    const int64_t count = !paged ? 1 : pages[i] > 0 ? pages[i] : blocks;
    const auto map = [&](const void* data, int64_t tokens) {
      return kv_map(s, data, tokens, kv_heads, count, head_dim);
    };
    maps[i].paged = paged ? 1 : 0;
    maps[i].keys = map(s.keys, paged ? kBlock : s.length);
    maps[i].values = map(s.values, paged ? kBlock : s.length);
    maps[i].last_values = map(s.values, paged ? s.length - (blocks - 1) * kBlock : s.length);
  }
  return maps;
}

void set_query_maps(HopperForwardArgs& args, int64_t rows, int tile_rows) {
  const ForwardArgs& c = args.call;
  const int64_t heads = int64_t{c.kv_heads} * c.group;
  args.q = query_map(c.q, c.q_row, c.q_head, rows, heads, c.head_dim, tile_rows);
  args.out = query_map(c.out, c.out_row, c.out_head, rows, heads, c.head_dim, 16);
}

}  // namespace longgen::cuda::hopper
