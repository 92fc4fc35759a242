// Attention forward: online softmax over key tiles (Milakov and Gimelshein, arXiv 1805.02867; tiled
// as FlashAttention, arXiv 2205.14135). A work item is a query tile of one sequence and KV head
// with all heads of its group; when there are few items, as in decode, the keys of each are cut
// into parts whose results are merged in order. An item's result does not depend on the thread that
// ran it.
#include <cmath>
#include <cstring>

#include "longgen/backend/cpu/attention.h"
#include "longgen/backend/cpu/attention_check.h"
#include "longgen/backend/cpu/attention_forward_parts.h"

namespace longgen {
namespace {

// Up to this many rows (queries x group) keys are streamed from where they lie: packing them would
// cost more than it saves.
constexpr int64_t kStreamRows = 8;
// Threads come out even with this many items each.
constexpr int64_t kItemsPerThread = 8;
// Parts of a key range are not made shorter than this.
constexpr int64_t kMinPartKeys = 256;
constexpr double kLog2E = 1.4426950408889634;

int64_t most_partials(int64_t threads) { return threads > 1 ? 4 * threads : 0; }

class Forward {
 public:
  Forward(const AttentionForward& args, CpuContext& context)
      : a_(args),
        pool_(context.pool),
        layout_(forward_layout(context.isa, args.q.dtype(), args.q.dim(2),
                               args.q.dim(1) / args.kv_heads)),
        kernels_(layout_.kernels),
        scale_(static_cast<float>(args.scale * kLog2E)) {}

  void run();

 private:
  struct Item {
    QueryTile tile;
    int64_t kv_head, part;
  };

  // A key tile ready for products.
  struct PackedTile {
    KeyTile keys;
    uint32_t* k_rows;
    LeftOperand values;
  };

  Item item_at(int64_t index) const;
  void run_item(const Item& item, int64_t index, int thread);
  void run_tile(const Item& item, ForwardScratch& t);
  PackedTile pack(const KeyTile& keys, int64_t index, const Item& item, ForwardScratch& t);
  void set_panel(const PackedTile& x, const Item& item, int64_t row, int64_t lanes, int64_t place,
                 ForwardScratch& t, AttentionPanel* to) const;
  void run_panels(const std::vector<PackedTile>& packed, const Item& item, Fetcher& fetcher,
                  ForwardScratch& t);
  static void take_tiles(KeyTiles& tiles, std::vector<KeyTile>& out);
  void fetch_tiles(const std::vector<KeyTile>& tiles, const Item& item, int64_t calls,
                   Fetcher& fetcher);
  void run_stream(const Item& item, ForwardScratch& t);
  template <typename T>
  void stream_keys(const Item& item, int64_t rows, const AttentionStreamKernels<T>& stream,
                   ForwardScratch& t);
  void stream_softmax(const Item& item, const KeyTile& keys, int64_t rows, ForwardScratch& t);
  void fetch_panel(const Tensor& x, const Item& item, int64_t first) const;
  void load_queries(const Item& item, ForwardScratch& t);
  void store_tile(const Item& item, ForwardScratch& t, ForwardPartial* partial);
  void store_row(const Item& item, int64_t token, int64_t head, const float* out, float shift,
                 float sum);
  void merge(int64_t item_index, ForwardScratch& t);

  int64_t rows_of(const QueryTile& tile) const { return (tile.end - tile.base) * layout_.group; }
  bool streams(const QueryTile& tile) const { return rows_of(tile) <= kStreamRows; }
  const AttentionSequence& sequence(const Item& item) const {
    return a_.sequences[static_cast<size_t>(item.tile.sequence)];
  }
  // Of tokens of a tile, in q or out; of heads of the group, in all.
  int64_t token_row(const Item& item, int64_t token) const {
    const AttentionSequence& s = sequence(item);
    return s.row_begin + item.tile.base + token - s.first_position;
  }
  int64_t whole_head(const Item& item, int64_t head) const {
    return item.kv_head * layout_.group + head;
  }
  const std::byte* row_data(const Tensor& x, const Item& item, int64_t token, int64_t head) const {
    const int64_t at = token_row(item, token) * x.stride(0) + whole_head(item, head) * x.stride(1);
    return static_cast<const std::byte*>(x.raw()) + at * dtype_size(x.dtype());
  }
  ForwardScratch scratch_of(int thread) const {
    Pieces pieces(a_.workspace.data() + thread * forward_scratch_bytes(layout_));
    return {layout_, pieces};
  }
  ForwardPartial partial_of(int64_t index) const {
    Pieces pieces(a_.workspace.data() + pool_.size() * forward_scratch_bytes(layout_) +
                  index * forward_partial_bytes(layout_));
    return {layout_, pieces};
  }

  const AttentionForward& a_;
  ThreadPool& pool_;
  AttentionLayout layout_;
  const AttentionKernels& kernels_;
  float scale_;  // of scores, in base 2
  std::vector<QueryTile> tiles_;
  int64_t parts_ = 1;
};

void Forward::run() {
  int64_t queries = 0;
  for (const AttentionSequence& s : a_.sequences) queries += s.row_count;
  const int64_t tokens =
      tile_tokens_for(*a_.pattern, queries, ceil_div(kItemsPerThread * pool_.size(), a_.kv_heads),
                      layout_.tile_tokens);
  for (size_t i = 0; i < a_.sequences.size(); ++i) {
    const AttentionSequence& s = a_.sequences[i];
    // Streamed tiles lie in one block, so that all their rows see the same blocks.
    const bool few = s.row_count * layout_.group <= kStreamRows;
    append_query_tiles(
        tiles_, static_cast<int64_t>(i), s.first_position, s.first_position + s.row_count,
        few ? std::min(tokens, a_.pattern->block_size) : tokens, a_.pattern->block_size);
  }
  const int64_t items = static_cast<int64_t>(tiles_.size()) * a_.kv_heads, threads = pool_.size();
  if (items == 0) return;
  if (threads > 1 && items < 2 * threads) {
    int64_t longest = 0;
    for (const QueryTile& tile : tiles_) {
      longest = std::max(longest, a_.pattern->tokens_kept(tile.end, a_.kv_head_begin));
    }
    parts_ = std::clamp<int64_t>(longest / kMinPartKeys, 1, ceil_div(2 * threads, items));
  }
  pool_.for_each(items * parts_,
                 [&](int64_t index, int thread) { run_item(item_at(index), index, thread); });
  if (parts_ == 1) return;
  pool_.for_each(items, [&](int64_t index, int thread) {
    ForwardScratch t = scratch_of(thread);
    merge(index, t);
  });
}

// The last tiles first: with full attention they are the longest.
Forward::Item Forward::item_at(int64_t index) const {
  const int64_t item = index / parts_;
  const auto tile = static_cast<int64_t>(tiles_.size()) - 1 - item / a_.kv_heads;
  return {tiles_[static_cast<size_t>(tile)], item % a_.kv_heads, index % parts_};
}

void Forward::run_item(const Item& item, int64_t index, int thread) {
  ForwardScratch t = scratch_of(thread);
  if (streams(item.tile)) {
    run_stream(item, t);
  } else {
    const ProductScope scope(kernels_);
    run_tile(item, t);
  }
  if (parts_ == 1) {
    store_tile(item, t, nullptr);
  } else {
    ForwardPartial partial = partial_of(index);
    store_tile(item, t, &partial);
  }
}

// Rows of q or out of the panel that begins at row `first`, before they are wanted: a group's rows
// lie far apart, and a processor does not foresee them.
void Forward::fetch_panel(const Tensor& x, const Item& item, int64_t first) const {
  const int64_t group = layout_.group, size = dtype_size(layout_.dtype);
  const int64_t begin = std::max(first / group, item.tile.begin - item.tile.base);
  const int64_t end = ceil_div(std::min(first + kPanel, rows_of(item.tile)), group);
  if (begin >= end) return;
  for (int64_t head = 0; head < group; ++head) {
    fetch_rows(row_data(x, item, begin, head), end - begin, layout_.head_dim * size,
               x.stride(0) * size);
  }
}

void Forward::load_queries(const Item& item, ForwardScratch& t) {
  const int64_t rows = rows_of(item.tile),
                padding = (item.tile.begin - item.tile.base) * layout_.group;
  auto* staged = reinterpret_cast<uint32_t*>(t.rows);
  const int64_t units = layout_.row_units;
  fetch_panel(a_.q, item, 0);
  for (int64_t first = 0; first < rows; first += kPanel) {
    fetch_panel(a_.q, item, first + kPanel);
    const int64_t begin = std::max(first, padding), end = std::min(first + kPanel, rows);
    if (end - begin < kPanel) std::memset(staged, 0, static_cast<size_t>(kPanel * units) * 4);
    for_groups(layout_.group, begin, end,
               [&](int64_t r, int64_t token, int64_t head, int64_t heads) {
                 load_rows(layout_, staged + (r - first) * units, row_data(a_.q, item, token, head),
                           a_.q.stride(1), heads);
               });
    kernels_.transpose(t.q_columns + first * units, kPanel, staged, units, kPanel, units);
  }
}

void Forward::run_tile(const Item& item, ForwardScratch& t) {
  const int64_t rows = round_up<int64_t>(rows_of(item.tile), kPanel);
  KeyTiles tiles(*a_.pattern, item.tile, a_.kv_head_begin + item.kv_head, layout_.group,
                 KeyJoining::kAny, item.part, parts_);
  load_queries(item, t);
  std::fill_n(t.out, rows * layout_.head_dim, 0.0f);
  std::fill_n(t.shift, rows, kNoShift);
  std::fill_n(t.sum, rows, 0.0f);
  t.masks.fill(*a_.pattern, item.tile, layout_.group, rows);
  std::vector<PackedTile> packed;
  std::vector<KeyTile> next;
  Fetcher fetcher;
  for (take_tiles(tiles, next); !next.empty();) {
    packed.clear();
    for (const KeyTile& keys : next) {
      packed.push_back(pack(keys, static_cast<int64_t>(packed.size()), item, t));
    }
    take_tiles(tiles, next);
    const auto calls = rows / kPanel * static_cast<int64_t>(packed.size());
    fetch_tiles(next, item, calls, fetcher);
    run_panels(packed, item, fetcher, t);
  }
}

// The next kPackedTiles at most.
void Forward::take_tiles(KeyTiles& tiles, std::vector<KeyTile>& out) {
  out.clear();
  KeyTile keys;
  while (static_cast<int64_t>(out.size()) < kPackedTiles && tiles.next(&keys)) out.push_back(keys);
}

void Forward::fetch_tiles(const std::vector<KeyTile>& tiles, const Item& item, int64_t calls,
                          Fetcher& fetcher) {
  const KvView& kv = sequence(item).kv;
  fetcher.clear();
  for (const KeyTile& keys : tiles) {
    for (const void* base : {kv.keys, kv.values}) {
      add_key_rows(layout_, fetcher, keys, kv, base, a_.pattern->block_size, item.kv_head);
    }
  }
  fetcher.spread(calls);
}

// All panels of the query tile with the packed key tiles.
void Forward::run_panels(const std::vector<PackedTile>& packed, const Item& item, Fetcher& fetcher,
                         ForwardScratch& t) {
  AttentionPanel panels[3];  // those in the turn
  int64_t count = 0;
  const auto before = [&](int64_t i) { return i <= count ? &panels[(count - i) % 3] : nullptr; };
  for (int64_t row = 0; row < rows_of(item.tile); row += kPanel) {
    for (const PackedTile& x : packed) {
      const int64_t begin = std::max(row, x.keys.row_begin);
      const int64_t end = std::min(row + kPanel, x.keys.row_end);
      if (begin >= end) continue;
      fetcher.fetch();
      AttentionPanel& panel = panels[count % 3];
      set_panel(x, item, begin, end - begin, count % 2, t, &panel);
      if (kernels_.turn == nullptr) {
        kernels_.forward(panel);
      } else {
        kernels_.turn(&panel, before(1), before(2));
        ++count;
      }
    }
  }
  if (count == 0) return;
  kernels_.turn(nullptr, before(1), before(2));
  kernels_.turn(nullptr, nullptr, before(1));
}

Forward::PackedTile Forward::pack(const KeyTile& keys, int64_t index, const Item& item,
                                  ForwardScratch& t) {
  const KvView& kv = sequence(item).kv;
  const int64_t block_size = a_.pattern->block_size;
  PackedTile out{.keys = keys, .k_rows = t.k_rows + index * kMaxTileKeys * layout_.row_units};
  load_key_rows(layout_, out.k_rows, keys, kv, kv.keys, block_size, item.kv_head);
  uint32_t* units = t.v_units + index * kMaxTileKeys * layout_.row_units;
  uint32_t* v_rows = kernels_.bf16_units ? t.v_rows : units;
  out.values = key_columns(layout_, v_rows, units, keys, kv, kv.values, block_size, item.kv_head);
  return out;
}

// `place`: which scores and probabilities of the thread it takes.
void Forward::set_panel(const PackedTile& x, const Item& item, int64_t row, int64_t lanes,
                        int64_t place, ForwardScratch& t, AttentionPanel* to) const {
  const int64_t panel = row / kPanel, lane = row % kPanel;
  const int64_t n = round_up<int64_t>(x.keys.keys, 16), padded = layout_.padded_keys(x.keys.keys);
  float* s = t.s[place];
  uint32_t* p = kernels_.bf16_units ? t.p[place] : reinterpret_cast<uint32_t*>(s);
  float* out = t.out + panel * layout_.head_dim * kPanel + lane;
  to->scores = {.m = n,
                .n = lanes,
                .depth = layout_.head_depth,
                .a = x.k_rows,
                .a_row = layout_.row_units,
                .a_depth = 1,
                .b = t.q_columns + panel * layout_.row_units * kPanel + lane,
                .b_depth = kPanel,
                .c = s,
                .c_row = kPanel,
                .accumulate = false};
  to->softmax = {.s = s,
                 .p = p,
                 .keys = n,
                 .padded_keys = padded,
                 .lanes = lanes,
                 .scale = scale_,
                 .mask = t.masks.of(x.keys, *a_.pattern, item.tile, row, lanes),
                 .shift = t.shift + row,
                 .sum = t.sum + row,
                 .out = out,
                 .out_rows = layout_.head_dim};
  to->values = {.m = layout_.head_dim,
                .n = lanes,
                .depth = layout_.element_units(padded),
                .a = x.values.data,
                .a_row = x.values.row,
                .a_depth = x.values.depth,
                .b = p,
                .b_depth = kPanel,
                .c = out,
                .c_row = kPanel,
                .accumulate = true};
}

// --- few rows: queries as stored in t.rows, outputs by rows in t.out ---

void Forward::run_stream(const Item& item, ForwardScratch& t) {
  const int64_t rows = rows_of(item.tile), dim = layout_.head_dim;
  const auto row_bytes = static_cast<size_t>(dim * dtype_size(layout_.dtype));
  for_rows(layout_.group, 0, rows, [&](int64_t r, int64_t token, int64_t head) {
    std::memcpy(reinterpret_cast<std::byte*>(t.rows) + static_cast<size_t>(r) * row_bytes,
                row_data(a_.q, item, token, head), row_bytes);
  });
  std::fill_n(t.out, rows * dim, 0.0f);
  std::fill_n(t.shift, rows, kNoShift);
  std::fill_n(t.sum, rows, 0.0f);
  if (layout_.dtype == DType::kF32) {
    stream_keys<float>(item, rows, kernels_.stream_f32, t);
  } else {
    stream_keys<uint16_t>(item, rows, kernels_.stream_bf16, t);
  }
}

template <typename T>
void Forward::stream_keys(const Item& item, int64_t rows, const AttentionStreamKernels<T>& stream,
                          ForwardScratch& t) {
  const KvView& kv = sequence(item).kv;
  const int64_t dim = layout_.head_dim, block_size = a_.pattern->block_size;
  const auto block = [&](const KeyTile& keys, const void* base, int64_t i) {
    return reinterpret_cast<const T*>(
        key_block(kv, base, layout_.dtype, keys.blocks[i], item.kv_head));
  };
  // Block i of `keys` in `base`, with block i of `then` in `other` fetched ahead.
  const auto stream_of = [&](const KeyTile& keys, const void* base, int64_t i, const KeyTile& then,
                             const void* other) -> AttentionStream<T> {
    const int64_t count = std::min(block_size, keys.keys - i * block_size);
    const bool whole = i < then.count && count <= then.keys - i * block_size;
    return {block(keys, base, i), kv.token_stride, count, whole ? block(then, other, i) : nullptr,
            kv.token_stride};
  };
  KeyTiles tiles(*a_.pattern, item.tile, a_.kv_head_begin + item.kv_head, layout_.group,
                 KeyJoining::kAny, item.part, parts_);
  KeyTile keys, next;
  for (bool more = tiles.next(&next); more;) {
    keys = next;
    more = tiles.next(&next);
    if (!more) next.count = 0;
    for (int64_t i = 0; i < keys.count; ++i) {
      stream.scores(t.s[0] + i * block_size, kMaxTileKeys, reinterpret_cast<const T*>(t.rows), rows,
                    stream_of(keys, kv.keys, i, keys, kv.values), dim);
    }
    stream_softmax(item, keys, rows, t);
    for (int64_t i = 0; i < keys.count; ++i) {
      stream.values(t.out, t.s[0] + i * block_size, kMaxTileKeys, rows,
                    stream_of(keys, kv.values, i, next, kv.keys), dim);
    }
  }
}

void Forward::stream_softmax(const Item& item, const KeyTile& keys, int64_t rows,
                             ForwardScratch& t) {
  const int64_t dim = layout_.head_dim, padded = round_up<int64_t>(keys.keys, 16);
  for (int64_t r = 0; r < rows; ++r) {
    float* s = t.s[0] + r * kMaxTileKeys;
    int64_t seen = keys.keys;
    if (keys.diagonal) {
      const int64_t position = item.tile.base + r / layout_.group;
      seen = std::min(seen, position - keys.blocks[0] * a_.pattern->block_size + 1);
    }
    std::fill(s + seen, s + padded, -INFINITY);
    const float before = t.shift[r], top = std::max(before, kernels_.maximum(s, padded) * scale_);
    const float factor = std::exp2(before - top);
    t.sum[r] = t.sum[r] * factor + kernels_.exponentials(s, top, scale_, padded);
    t.shift[r] = top;
    if (top > before) kernels_.scale_to_float(t.out + r * dim, t.out + r * dim, factor, dim);
  }
}

// --- results ---

// Writes one finished row; `out` is not yet divided by the sum.
void Forward::store_row(const Item& item, int64_t token, int64_t head, const float* out,
                        float shift, float sum) {
  auto* dst = const_cast<std::byte*>(row_data(a_.out, item, token, head));
  if (layout_.dtype == DType::kF32) {
    kernels_.scale_to_float(reinterpret_cast<float*>(dst), out, 1 / sum, layout_.head_dim);
  } else {
    kernels_.scale_to_bf16(reinterpret_cast<uint16_t*>(dst), out, 1 / sum, layout_.head_dim);
  }
  if (!a_.lse.defined()) return;
  const int64_t at = whole_head(item, head) * a_.lse.stride(0) + token_row(item, token);
  static_cast<float*>(a_.lse.raw())[at] = shift * static_cast<float>(1 / kLog2E) + std::log(sum);
}

void Forward::store_tile(const Item& item, ForwardScratch& t, ForwardPartial* partial) {
  const int64_t rows = rows_of(item.tile), dim = layout_.head_dim;
  const int64_t padding = (item.tile.begin - item.tile.base) * layout_.group;
  const bool stream = streams(item.tile);
  if (partial == nullptr) fetch_panel(a_.out, item, 0);
  for (int64_t first = 0; first < rows; first += kPanel) {
    if (partial == nullptr) fetch_panel(a_.out, item, first + kPanel);
    const float* panel = t.out + first * dim;
    if (!stream) {
      kernels_.transpose(reinterpret_cast<uint32_t*>(t.rows), dim,
                         reinterpret_cast<const uint32_t*>(panel), kPanel, dim, kPanel);
      panel = t.rows;
    }
    for_rows(layout_.group, std::max(first, padding), std::min(first + kPanel, rows),
             [&](int64_t r, int64_t token, int64_t head) {
               const float* out = panel + (r - first) * dim;
               if (partial == nullptr) {
                 store_row(item, token, head, out, t.shift[r], t.sum[r]);
                 return;
               }
               std::copy_n(out, dim, partial->out + r * dim);
               partial->shift[r] = t.shift[r];
               partial->sum[r] = t.sum[r];
             });
  }
}

// Joins the parts of an item in order.
void Forward::merge(int64_t item_index, ForwardScratch& t) {
  const Item item = item_at(item_index * parts_);
  const int64_t rows = rows_of(item.tile), dim = layout_.head_dim;
  for (int64_t r = (item.tile.begin - item.tile.base) * layout_.group; r < rows; ++r) {
    float top = kNoShift, sum = 0;
    for (int64_t i = 0; i < parts_; ++i) {
      top = std::max(top, partial_of(item_index * parts_ + i).shift[r]);
    }
    std::fill_n(t.out, dim, 0.0f);
    for (int64_t i = 0; i < parts_; ++i) {
      const ForwardPartial partial = partial_of(item_index * parts_ + i);
      const float factor = std::exp2(partial.shift[r] - top);
      sum += partial.sum[r] * factor;
      for (int64_t d = 0; d < dim; ++d) t.out[d] += factor * partial.out[r * dim + d];
    }
    store_row(item, r / layout_.group, r % layout_.group, t.out, top, sum);
  }
}

}  // namespace

int64_t cpu_attention_forward_workspace_bytes(const AttentionShape& shape,
                                              const CpuContext& context) {
  cpu::attention_checks().shape(shape);
  const AttentionLayout layout =
      forward_layout(context.isa, shape.dtype, shape.head_dim, shape.q_heads / shape.kv_heads);
  const int64_t threads = context.pool.size();
  return threads * forward_scratch_bytes(layout) +
         most_partials(threads) * forward_partial_bytes(layout);
}

void cpu_attention_forward(const AttentionForward& args, CpuContext& context) {
  require(args.q.defined() && args.q.rank() == 3 && args.kv_heads > 0,
          "cpu attention: q must be [rows, heads, head_dim] and kv_heads positive");
  cpu::attention_checks().forward(
      args,
      cpu_attention_forward_workspace_bytes(
          {args.q.dim(0), args.q.dim(1), args.kv_heads, args.q.dim(2), args.q.dtype()}, context));
  Forward(args, context).run();
}

}  // namespace longgen
