#include "longgen/backend/cuda/attention/hopper/backward.h"

#include <algorithm>
#include <array>

#include "longgen/backend/cuda/attention/hopper/backward_work.h"
#include "longgen/backend/cuda/attention/hopper/tensor_map.h"
#include "longgen/base/error.h"

namespace longgen::cuda::hopper {
namespace {

constexpr int64_t kMostItems = 100'000;  // about, of a document
constexpr int64_t kRing = 4;             // KV heads all of whose keys may have sums in memory

bool in_sixteens(const Tensor& x) {
  return reinterpret_cast<uintptr_t>(x.raw()) % 16 == 0 && x.stride(0) % 8 == 0 &&
         x.stride(1) % 8 == 0;
}

// The workspace, piece by piece.
struct Layout {
  int64_t blocks, sums;  // sums: blocks of keys of which sums fit
  int64_t stats, query_sums, query_turns, key_sums, key_turns, next_unit, end;

  Layout(int64_t rows, int64_t q_heads, int64_t kv_heads, int64_t head_dim) {
    blocks = (rows + kBackwardBlock - 1) / kBackwardBlock;
    sums = std::min(kv_heads, kRing) * blocks;
    int64_t at = 0;
    const auto take = [&](int64_t numbers) {
      const int64_t begin = at;
      at += (numbers * 4 + 255) / 256 * 256;
      return begin;
    };
    stats = take(q_heads * (blocks + 1) * 2 * kBackwardBlock);
    query_sums = take(q_heads * blocks * kBackwardBlock * head_dim);
    key_sums = take(sums * 2 * kBackwardBlock * head_dim);
    query_turns = take(q_heads * blocks * (head_dim / 64));  // zeros from here on
    key_turns = take(kv_heads * blocks);
    next_unit = take(2);
    end = at;
  }
};

struct Work {
  std::vector<BackwardItem> items;
  std::vector<HeadGroup> groups;
  std::vector<BackwardFinish> finishes;
  int64_t heads_together = 1, ring = 1, slots = 0;
};

// Which sums of keys share memory: those of the same slot, `ring` heads apart. Heads with other
// items have other blocks in a slot, so unless every head has slots of its own these are the blocks
// then.
void place_sums(const Layout& layout, int64_t kv_heads, Work* work) {
  work->ring = std::min(kv_heads, layout.sums / std::max<int64_t>(1, work->slots));
  if (work->ring < kv_heads && work->groups.size() > 1) {
    work->ring = std::min(kv_heads, kRing);
    work->slots = layout.blocks;
    for (BackwardItem& item : work->items) {
      for (int w = 0; w < 2; ++w) item.slot[w] = item.row_begin / kBackwardBlock + item.blocks[w];
    }
  }
  // Heads that alternate must not share.
  work->heads_together = std::min(work->heads_together, work->ring);
}

Work make_work(const AttentionBackward& a, const BackwardTuning& tuning, const Layout& layout,
               int processors) {
  const int64_t kv_heads = a.k.dim(1), group = a.q.dim(1) / kv_heads, dim = a.q.dim(2);
  const AttentionPattern& pattern = *a.pattern;
  Work work;
  std::vector<BackwardDocument> documents;
  int64_t longest = 0;
  for (const DocumentRange& d : a.documents) {
    documents.push_back({static_cast<int32_t>(d.row_begin), static_cast<int32_t>(d.row_count)});
    longest = std::max(longest, (d.row_count - 1) / query_rows(static_cast<int>(dim)) + 1);
  }
  BackwardWorkShape shape{.sink_blocks = pattern.sink_blocks,
                          .local_blocks = std::min<int64_t>(pattern.local_blocks, INT32_MAX),
                          .stride = pattern.stride,
                          .head_dim = static_cast<int>(dim)};
  shape.chunk_tiles =
      std::max({int64_t{2}, tuning.chunk_steps / group, longest * longest / kMostItems});
  const int64_t tile_blocks = query_rows(static_cast<int>(dim)) / kBackwardBlock;
  shape.remote_tiles =
      std::max({int64_t{1}, tuning.remote_blocks / tile_blocks, longest * 64 / kMostItems});
  const bool in_chunks =
      shape.local_blocks * kBackwardBlock / query_rows(static_cast<int>(dim)) > shape.chunk_tiles &&
      longest > shape.chunk_tiles;
  work.heads_together = tuning.heads_together;
  if (tuning.heads_together == 0) work.heads_together = pattern.stride > 0 ? 4 : 4 / group;
  work.heads_together = in_chunks ? 1 : std::clamp<int64_t>(work.heads_together, 1, kv_heads);
  shape.remote_lag = tuning.lag_waves * processors / work.heads_together;
  int32_t units = 0;
  for (int64_t h = 0; h < kv_heads;) {
    int64_t end = h + 1;
    while (end < kv_heads && pattern.same_for_heads(a.kv_head_begin + h, a.kv_head_begin + end)) {
      ++end;
    }
    shape.offset = pattern.stride > 0 ? pattern.offset(a.kv_head_begin + h) : 0;
    HeadGroup g{.unit_begin = units,
                .item_begin = static_cast<int32_t>(work.items.size()),
                .head_begin = static_cast<int32_t>(h),
                .head_count = static_cast<int32_t>(end - h)};
    work.slots =
        std::max<int64_t>(work.slots, append_backward_items(shape, documents, &work.items));
    append_backward_finishes(shape, documents, &work.finishes);
    g.item_count = static_cast<int32_t>(work.items.size()) - g.item_begin;
    units += g.item_count * g.head_count;
    work.groups.push_back(g);
    h = end;
  }
  place_sums(layout, kv_heads, &work);
  return work;
}

std::vector<CUtensorMap> make_maps(const AttentionBackward& a) {
  std::vector<CUtensorMap> maps;
  const std::array<const Tensor*, kBackwardMaps> tensors = {&a.q,  &a.dout, &a.k, &a.v,
                                                            &a.dq, &a.dk,   &a.dv};
  for (const DocumentRange& d : a.documents) {
    for (const Tensor* x : tensors) {
      const auto* data = static_cast<const std::byte*>(x->raw()) + d.row_begin * x->stride(0) * 2;
      const std::array<int64_t, 3> sizes = {x->dim(2), x->dim(1),
                                            std::max<int64_t>(1, d.row_count)};
      const std::array<int64_t, 2> strides = {x->stride(1), x->stride(0)};
      const std::array<int32_t, 3> box = {64, 1, kBackwardBlock};
      maps.push_back(
          make_tensor_map({.data = data, .sizes = sizes, .strides = strides, .box = box}));
    }
  }
  return maps;
}

std::vector<int32_t> rows_of_blocks(const AttentionBackward& a, int64_t blocks) {
  std::vector<int32_t> rows(static_cast<size_t>(blocks), 0);
  for (const DocumentRange& d : a.documents) {
    for (int64_t r = 0; r < d.row_count; r += kBackwardBlock) {
      rows[static_cast<size_t>((d.row_begin + r) / kBackwardBlock)] =
          static_cast<int32_t>(std::min<int64_t>(kBackwardBlock, d.row_count - r));
    }
  }
  return rows;
}

}  // namespace

int64_t backward_workspace_bytes(const AttentionShape& s) {
  if (s.dtype != DType::kBF16 || (s.head_dim != 64 && s.head_dim != 128)) return 0;
  return Layout(s.rows, s.q_heads, s.kv_heads, s.head_dim).end;
}

bool takes_backward(const AttentionBackward& a) {
  const int64_t dim = a.q.dim(2);
  const auto tensors = {&a.q, &a.k, &a.v, &a.out, &a.dout, &a.dq, &a.dk, &a.dv};
  return a.q.dtype() == DType::kBF16 && (dim == 64 || dim == 128) &&
         a.pattern->block_size == kBackwardBlock && a.scale > 0 &&
         std::ranges::all_of(tensors, [](const Tensor* x) { return in_sixteens(*x); }) &&
         std::ranges::all_of(
             a.documents, [](const DocumentRange& d) { return d.row_begin % kBackwardBlock == 0; });
}

void attention_backward(const AttentionBackward& a, const BackwardArgs& b, Uploads& uploads,
                        int processors, cudaStream_t stream, const BackwardTuning& tuning) {
  const int64_t rows = a.q.dim(0), q_heads = a.q.dim(1), dim = a.q.dim(2);
  const Layout layout(rows, q_heads, b.kv_heads, dim);
  std::byte* workspace = a.workspace.data();
  const auto floats = [&](int64_t at) { return reinterpret_cast<float*>(workspace + at); };
  const auto counts = [&](int64_t at) { return reinterpret_cast<int*>(workspace + at); };
  const Work work = make_work(a, tuning, layout, processors);
  if (work.items.empty()) return;
  const auto maps = make_maps(a);
  const auto block_rows = rows_of_blocks(a, layout.blocks);

  check(cudaMemsetAsync(workspace + layout.query_turns, 0,
                        static_cast<size_t>(layout.end - layout.query_turns), stream),
        "clearing the turns of attention backward");
  const BackwardStatsArgs r{.out = b.out,
                            .dout = b.dout,
                            .lse = b.lse,
                            .out_row = b.out_row,
                            .out_head = b.out_head,
                            .dout_row = b.dout_row,
                            .dout_head = b.dout_head,
                            .lse_head = b.lse_head,
                            .block_rows = uploads.put(std::span(block_rows)),
                            .blocks = static_cast<int32_t>(layout.blocks),
                            .q_heads = static_cast<int32_t>(q_heads),
                            .head_dim = static_cast<int32_t>(dim),
                            .stats = floats(layout.stats)};
  backward_stats(r, stream);
  const HeadGroup& last = work.groups.back();
  const BackwardKernelArgs k{
      .maps = uploads.put(std::span(maps)),
      .items = uploads.put(std::span(work.items)),
      .groups = uploads.put(std::span(work.groups)),
      .finishes = uploads.put(std::span(work.finishes)),
      .finish_count = static_cast<int32_t>(work.finishes.size() / work.groups.size()),
      .group_count = static_cast<int32_t>(work.groups.size()),
      .unit_count = last.unit_begin + last.item_count * last.head_count,
      .heads_together = static_cast<int32_t>(work.heads_together),
      .ring = static_cast<int32_t>(work.ring),
      .slots = static_cast<int32_t>(work.slots),
      .group = b.group,
      .local_blocks = static_cast<int32_t>(std::min<int64_t>(a.pattern->local_blocks, INT32_MAX)),
      .blocks = static_cast<int32_t>(layout.blocks),
      .scale = b.scale,
      .stats = r.stats,
      .query_sums = floats(layout.query_sums),
      .query_turns = counts(layout.query_turns),
      .key_sums = floats(layout.key_sums),
      .key_turns = counts(layout.key_turns),
      .next_unit = counts(layout.next_unit)};
  if (dim == 64) {
    launch_backward<64>(k, processors, stream);
  } else {
    launch_backward<128>(k, processors, stream);
  }
}

}  // namespace longgen::cuda::hopper
