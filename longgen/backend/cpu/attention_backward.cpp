// Attention backward in one pass over query tiles, five products a key tile (FlashAttention-2,
// arXiv 2307.08691, with the loops turned: queries outside). dq of a tile is whole when its key
// tiles are done; dk and dv grow in f32 accumulators. The query tiles of a KV head are cut into
// parts of even work, each with accumulators of its own that are summed in order: no atomics, and
// the same bits for the same number of threads. As many (head, part) pairs run at once as there are
// threads.
#include <cmath>
#include <cstring>
#include <numeric>

#include "longgen/backend/cpu/attention.h"
#include "longgen/backend/cpu/attention_check.h"
#include "longgen/backend/cpu/attention_tiles.h"

namespace longgen {
namespace {

constexpr double kLog2E = 1.4426950408889634;

int64_t target_rows(int64_t head_dim) { return std::clamp<int64_t>(16384 / head_dim, 64, 256); }

struct ThreadScratch {
  // Of the query tile, a panel after the other.
  uint32_t* q_columns;  // [row_units, 64]
  uint32_t* dout_columns;
  uint32_t* q_paired;  // [64, row_units] or [32, head_dim]
  uint32_t* dout_paired;
  float* dq;     // [head_dim, 64]
  float* lse;    // [tile_rows], times log2(e); +inf in padding
  float* delta;  // [tile_rows] sum of dout * out
  RowMasks masks;
  // Of the key tile.
  uint32_t* k_rows;  // [kMaxTileKeys, row]
  uint32_t* v_rows;
  uint32_t* k_paired;
  uint32_t* k_transposed;
  float* dk;  // [kMaxTileKeys, head_dim]
  float* dv;
  // Of one panel with the key tile.
  float* s;  // [kMaxTileKeys, 64]
  float* dp;
  uint32_t* p_rows;
  uint32_t* ds_rows;
  uint32_t* ds_paired;
  float* lse_masked;  // [64]
  uint32_t* rows;     // [64, row] f32

  ThreadScratch(const AttentionLayout& l, Pieces& pieces) : masks(l.tile_rows, pieces) {
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
    k_paired = pieces.take<uint32_t>(bf16 ? kMaxTileKeys / 2 * l.head_dim : 0);
    k_transposed = pieces.take<uint32_t>(l.kernels.rows_only ? kMaxTileKeys / 2 * l.head_dim : 0);
    dk = pieces.take<float>(kMaxTileKeys * l.head_dim);
    dv = pieces.take<float>(kMaxTileKeys * l.head_dim);
    s = pieces.take<float>(kMaxTileKeys * kPanel);
    dp = pieces.take<float>(kMaxTileKeys * kPanel);
    for (uint32_t** p : {&p_rows, &ds_rows, &ds_paired}) {
      *p = pieces.take<uint32_t>(bf16 ? kMaxTileKeys * kPanel / 2 : 0);
    }
    if (!bf16) {
      p_rows = reinterpret_cast<uint32_t*>(s);
      ds_rows = reinterpret_cast<uint32_t*>(dp);
    }
    lse_masked = pieces.take<float>(kPanel);
    rows = pieces.take<uint32_t>(kPanel * l.row);
  }
};

AttentionLayout backward_layout(CpuIsa isa, DType dtype, int64_t head_dim, int64_t group) {
  return {attention_kernels_for(isa, dtype), dtype, head_dim, group, target_rows(head_dim)};
}

int64_t thread_bytes(const AttentionLayout& layout) {
  Pieces pieces(nullptr);
  ThreadScratch scratch(layout, pieces);
  return pieces.used();
}

// A contiguous run of query tiles, and the rows whose dk and dv they may touch.
struct Part {
  size_t tile_begin = 0, tile_end = 0;
  int64_t row_begin = 0, row_end = 0;
};

class Backward {
 public:
  Backward(const AttentionBackward& args, CpuContext& context)
      : a_(args),
        pool_(context.pool),
        layout_(backward_layout(context.isa, args.q.dtype(), args.q.dim(2),
                                args.q.dim(1) / args.k.dim(1))),
        kernels_(layout_.kernels),
        scale_(static_cast<float>(args.scale * kLog2E)),
        documents_(args.documents.begin(), args.documents.end()) {}

  void run();

 private:
  void sort_documents();
  void zero_gaps();
  void zero_rows(const Tensor& x, int64_t begin, int64_t end);
  std::vector<Part> parts_of(int64_t kv_head, int64_t count) const;
  void run_part(const Part& part, int64_t kv_head, float* slot, ThreadScratch& t);
  void run_tile(const QueryTile& tile, int64_t kv_head, float* slot, ThreadScratch& t);
  void load_queries(const QueryTile& tile, int64_t kv_head, ThreadScratch& t);
  void load_panel(const Tensor& x, const QueryTile& tile, int64_t kv_head, int64_t first,
                  uint32_t* columns, uint32_t* paired, ThreadScratch& t);
  void run_key_tile(const KeyTile& keys, const QueryTile& tile, int64_t kv_head, float* slot,
                    ThreadScratch& t);
  void run_panel(const KeyTile& keys, const QueryTile& tile, int64_t row, int64_t lanes,
                 LeftOperand k_down, bool first, ThreadScratch& t);
  const float* lse_of(const KeyTile& keys, int64_t row, int64_t lanes, ThreadScratch& t) const;
  void add_to_slot(const KeyTile& keys, const QueryTile& tile, float* slot, ThreadScratch& t);
  void store_queries(const QueryTile& tile, int64_t kv_head, ThreadScratch& t);
  void sum_parts(const std::vector<Part>& parts, int64_t kv_head, int64_t first_slot);
  void store_scaled(std::byte* dst, const float* src);

  int64_t rows_of(const QueryTile& tile) const { return (tile.end - tile.base) * layout_.group; }
  int64_t padding_of(const QueryTile& tile) const {
    return (tile.begin - tile.base) * layout_.group;
  }
  const DocumentRange& document(const QueryTile& tile) const {
    return documents_[static_cast<size_t>(tile.sequence)];
  }
  std::byte* row_data(const Tensor& x, int64_t row, int64_t head) const {
    return static_cast<std::byte*>(x.raw()) +
           (row * x.stride(0) + head * x.stride(1)) * dtype_size(x.dtype());
  }
  int64_t token_of(const QueryTile& tile, int64_t row) const {
    return document(tile).row_begin + tile.base + row / layout_.group;
  }
  int64_t head_of(int64_t kv_head, int64_t row) const {
    return kv_head * layout_.group + row % layout_.group;
  }
  KvView view_of(const Tensor& x, const QueryTile& tile) const {
    KvView view;
    view.keys = row_data(x, document(tile).row_begin, 0);
    view.token_stride = x.stride(0);
    view.head_stride = x.stride(1);
    view.page_stride = a_.pattern->block_size * x.stride(0);
    view.length = document(tile).row_count;
    return view;
  }
  int64_t paired_row() const { return kernels_.bf16_units ? layout_.head_dim : layout_.row_units; }
  // Accumulators of a slot: dk [T, head_dim], then dv.
  float* slot(int64_t index) const {
    return reinterpret_cast<float*>(a_.workspace.data() + pool_.size() * thread_bytes(layout_)) +
           index * 2 * a_.q.dim(0) * layout_.head_dim;
  }

  const AttentionBackward& a_;
  ThreadPool& pool_;
  AttentionLayout layout_;
  const AttentionKernels& kernels_;
  float scale_;                           // of scores, in base 2
  std::vector<DocumentRange> documents_;  // ascending
  std::vector<QueryTile> tiles_;
};

void Backward::run() {
  sort_documents();
  zero_gaps();
  for (size_t i = 0; i < documents_.size(); ++i) {
    append_query_tiles(tiles_, static_cast<int64_t>(i), 0, documents_[i].row_count,
                       tile_tokens_for(*a_.pattern, layout_.tile_tokens), a_.pattern->block_size);
  }
  if (tiles_.empty()) return;
  const int64_t threads = pool_.size(), kv_heads = a_.k.dim(1);
  const int64_t heads_at_once = std::gcd(threads, kv_heads), parts = threads / heads_at_once;
  for (int64_t first = 0; first < kv_heads; first += heads_at_once) {
    std::vector<std::vector<Part>> work;
    for (int64_t h = 0; h < heads_at_once; ++h) work.push_back(parts_of(first + h, parts));
    pool_.for_each(threads, [&](int64_t index, int thread) {
      Pieces pieces(a_.workspace.data() + thread * thread_bytes(layout_));
      ThreadScratch t(layout_, pieces);
      const int64_t h = index / parts;
      run_part(work[static_cast<size_t>(h)][static_cast<size_t>(index % parts)], first + h,
               slot(index), t);
    });
    for (int64_t h = 0; h < heads_at_once; ++h) {
      sum_parts(work[static_cast<size_t>(h)], first + h, h * parts);
    }
  }
}

void Backward::sort_documents() {
  std::sort(documents_.begin(), documents_.end(),
            [](const auto& x, const auto& y) { return x.row_begin < y.row_begin; });
  std::erase_if(documents_, [](const DocumentRange& d) { return d.row_count == 0; });
  for (size_t i = 1; i < documents_.size(); ++i) {
    const DocumentRange& before = documents_[i - 1];
    require(before.row_begin + before.row_count <= documents_[i].row_begin,
            "cpu attention: documents at rows {} + {} and {} + {} overlap", before.row_begin,
            before.row_count, documents_[i].row_begin, documents_[i].row_count);
  }
}

void Backward::zero_rows(const Tensor& x, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t h = 0; h < x.dim(1); ++h) {
      std::memset(row_data(x, row, h), 0, static_cast<size_t>(x.dim(2) * dtype_size(x.dtype())));
    }
  }
}

void Backward::zero_gaps() {
  int64_t at = 0;
  const auto zero_until = [&](int64_t end) {
    for (const Tensor* x : {&a_.dq, &a_.dk, &a_.dv}) zero_rows(*x, at, end);
  };
  for (const DocumentRange& d : documents_) {
    zero_until(d.row_begin);
    at = d.row_begin + d.row_count;
  }
  zero_until(a_.q.dim(0));
}

// Cuts the tiles where the work of those before reaches the next share.
std::vector<Part> Backward::parts_of(int64_t kv_head, int64_t count) const {
  std::vector<double> before(tiles_.size() + 1, 0);
  for (size_t i = 0; i < tiles_.size(); ++i) {
    const auto pairs =
        a_.pattern->pairs(tiles_[i].begin, tiles_[i].end, a_.kv_head_begin + kv_head);
    before[i + 1] = before[i] + static_cast<double>(pairs);
  }
  std::vector<Part> parts(static_cast<size_t>(count));
  size_t tile = 0;
  for (size_t p = 0; p < parts.size(); ++p) {
    Part& part = parts[p];
    part.tile_begin = tile;
    const double goal = before.back() * static_cast<double>(p + 1) / static_cast<double>(count);
    while (tile < tiles_.size() && (before[tile] + before[tile + 1]) / 2 < goal) ++tile;
    part.tile_end = tile;
    if (part.tile_begin == part.tile_end) continue;
    const QueryTile& last = tiles_[tile - 1];
    part.row_begin = document(tiles_[part.tile_begin]).row_begin;
    part.row_end = document(last).row_begin + last.end;
  }
  return parts;
}

void Backward::run_part(const Part& part, int64_t kv_head, float* slot, ThreadScratch& t) {
  const int64_t dim = layout_.head_dim, plane = a_.q.dim(0) * dim;
  for (float* x : {slot, slot + plane}) {
    std::fill(x + part.row_begin * dim, x + part.row_end * dim, 0.0f);
  }
  const ProductScope scope(kernels_);
  for (size_t i = part.tile_begin; i < part.tile_end; ++i) run_tile(tiles_[i], kv_head, slot, t);
}

void Backward::run_tile(const QueryTile& tile, int64_t kv_head, float* slot, ThreadScratch& t) {
  load_queries(tile, kv_head, t);
  std::fill_n(t.dq, round_up<int64_t>(rows_of(tile), kPanel) * layout_.head_dim, 0.0f);
  KeyTiles tiles(*a_.pattern, tile, a_.kv_head_begin + kv_head, layout_.group);
  for (KeyTile keys; tiles.next(&keys);) run_key_tile(keys, tile, kv_head, slot, t);
  store_queries(tile, kv_head, t);
}

// One panel of q or dout in both layouts; t.rows is used.
void Backward::load_panel(const Tensor& x, const QueryTile& tile, int64_t kv_head, int64_t first,
                          uint32_t* columns, uint32_t* paired, ThreadScratch& t) {
  const int64_t units = layout_.row_units, end = std::min(first + kPanel, rows_of(tile));
  uint32_t* rows = kernels_.bf16_units ? t.rows : paired;
  std::memset(rows, 0, static_cast<size_t>(kPanel * units) * 4);
  for (int64_t r = std::max(first, padding_of(tile)); r < end; ++r) {
    load_rows(layout_, rows + (r - first) * units,
              row_data(x, token_of(tile, r), head_of(kv_head, r)), 0, 1);
  }
  kernels_.transpose(columns, kPanel, rows, units, kPanel, units);
  if (!kernels_.bf16_units) return;
  kernels_.pair_rows(paired, layout_.head_dim, reinterpret_cast<const uint16_t*>(rows), layout_.row,
                     kPanel, layout_.head_dim);
}

void Backward::load_queries(const QueryTile& tile, int64_t kv_head, ThreadScratch& t) {
  const int64_t rows = rows_of(tile), padding = padding_of(tile), dim = layout_.head_dim;
  const int64_t padded = round_up<int64_t>(rows, kPanel), units = layout_.row_units;
  for (int64_t first = 0; first < padded; first += kPanel) {
    load_panel(a_.q, tile, kv_head, first, t.q_columns + first * units, t.q_paired + first * units,
               t);
    load_panel(a_.dout, tile, kv_head, first, t.dout_columns + first * units,
               t.dout_paired + first * units, t);
  }
  t.masks.fill(*a_.pattern, tile, layout_.group, padded);
  const bool f32 = layout_.dtype == DType::kF32;
  const auto* lse = static_cast<const float*>(a_.lse.raw());
  auto* staged = reinterpret_cast<float*>(t.rows);
  for (int64_t r = 0; r < padded; ++r) {
    t.lse[r] = INFINITY;
    t.delta[r] = 0;
    if (r < padding || r >= rows) continue;
    const int64_t token = token_of(tile, r), head = head_of(kv_head, r);
    const float* pair[2];
    for (int i = 0; i < 2; ++i) {
      const std::byte* src = row_data(i == 0 ? a_.dout : a_.out, token, head);
      pair[i] = reinterpret_cast<const float*>(src);
      if (f32) continue;
      kernels_.bf16_to_float(staged + i * dim, reinterpret_cast<const uint16_t*>(src), dim);
      pair[i] = staged + i * dim;
    }
    t.delta[r] = kernels_.dot(pair[0], pair[1], dim);
    t.lse[r] = lse[head * a_.lse.stride(0) + token] * static_cast<float>(kLog2E);
  }
}

void Backward::run_key_tile(const KeyTile& keys, const QueryTile& tile, int64_t kv_head,
                            float* slot, ThreadScratch& t) {
  const int64_t block_size = a_.pattern->block_size;
  const KvView k = view_of(a_.k, tile), v = view_of(a_.v, tile);
  load_key_rows(layout_, t.k_rows, keys, k, k.keys, block_size, kv_head);
  load_key_rows(layout_, t.v_rows, keys, v, v.keys, block_size, kv_head);
  const LeftOperand k_down = down_columns(layout_, t.k_rows, keys.keys, t.k_paired, t.k_transposed);
  // Lanes are the depth of the products for dk and dv.
  const int64_t step = std::max<int64_t>(kernels_.depth_multiple, 16);
  const int64_t end = round_up(keys.row_end, step);
  bool first = true;
  for (int64_t row = keys.row_begin / step * step; row < end;) {
    const int64_t lanes = std::min(kPanel - row % kPanel, end - row);
    run_panel(keys, tile, row, lanes, k_down, first, t);
    first = false;
    row += lanes;
  }
  add_to_slot(keys, tile, slot, t);
}

// The tile's lse with rows that do not see the key tile masked.
const float* Backward::lse_of(const KeyTile& keys, int64_t row, int64_t lanes,
                              ThreadScratch& t) const {
  if (row >= keys.row_begin && row + lanes <= keys.row_end) return t.lse + row;
  for (int64_t i = 0; i < lanes; ++i) {
    const bool sees = row + i >= keys.row_begin && row + i < keys.row_end;
    t.lse_masked[i] = sees ? t.lse[row + i] : INFINITY;
  }
  return t.lse_masked;
}

void Backward::run_panel(const KeyTile& keys, const QueryTile& tile, int64_t row, int64_t lanes,
                         LeftOperand k_down, bool first, ThreadScratch& t) {
  const int64_t dim = layout_.head_dim, panel = row / kPanel * kPanel, lane = row % kPanel;
  const int64_t n = round_up<int64_t>(keys.keys, 16), padded = layout_.padded_keys(keys.keys);
  AttentionProduct scores = {.m = n,
                             .n = lanes,
                             .depth = layout_.head_depth,
                             .a = t.k_rows,
                             .a_row = layout_.row_units,
                             .a_depth = 1,
                             .b = t.q_columns + panel * layout_.row_units + lane,
                             .b_depth = kPanel,
                             .c = t.s,
                             .c_row = kPanel,
                             .accumulate = false};
  kernels_.product(scores);
  scores.a = t.v_rows;
  scores.b = t.dout_columns + panel * layout_.row_units + lane;
  scores.c = t.dp;
  kernels_.product(scores);

  kernels_.gradient({.s = t.s,
                     .dp = t.dp,
                     .keys = n,
                     .padded_keys = padded,
                     .lanes = lanes,
                     .scale = scale_,
                     .mask = t.masks.of(keys, *a_.pattern, tile, row),
                     .lse = lse_of(keys, row, lanes, t),
                     .delta = t.delta + row,
                     .p_rows = t.p_rows,
                     .ds_rows = t.ds_rows,
                     .ds_paired = kernels_.bf16_units ? t.ds_paired : nullptr});

  const int64_t paired = panel * layout_.row_units + layout_.element_units(lane) * paired_row();
  AttentionProduct sums = {.m = n,
                           .n = dim,
                           .depth = layout_.element_units(lanes),
                           .a = t.p_rows,
                           .a_row = layout_.element_units(kPanel),
                           .a_depth = 1,
                           .b = t.dout_paired + paired,
                           .b_depth = paired_row(),
                           .c = t.dv,
                           .c_row = dim,
                           .accumulate = !first};
  kernels_.product(sums);
  sums.a = t.ds_rows;
  sums.b = t.q_paired + paired;
  sums.c = t.dk;
  kernels_.product(sums);
  kernels_.product({.m = dim,
                    .n = lanes,
                    .depth = layout_.element_units(padded),
                    .a = k_down.data,
                    .a_row = k_down.row,
                    .a_depth = k_down.depth,
                    .b = kernels_.bf16_units ? t.ds_paired : t.ds_rows,
                    .b_depth = kPanel,
                    .c = t.dq + panel * dim + lane,
                    .c_row = kPanel,
                    .accumulate = true});
}

void Backward::add_to_slot(const KeyTile& keys, const QueryTile& tile, float* slot,
                           ThreadScratch& t) {
  const int64_t dim = layout_.head_dim, plane = a_.q.dim(0) * dim;
  const int64_t block_size = a_.pattern->block_size;
  int64_t n = 0;
  for (int64_t i = 0; i < keys.count; ++i) {
    const int64_t count = std::min(block_size, keys.keys - n);
    float* dst = slot + (document(tile).row_begin + keys.blocks[i] * block_size) * dim;
    kernels_.add(dst, t.dk + n * dim, count * dim);
    kernels_.add(dst + plane, t.dv + n * dim, count * dim);
    n += count;
  }
}

// Writes one row of head_dim numbers times the scale of the scores.
void Backward::store_scaled(std::byte* dst, const float* src) {
  const auto scale = static_cast<float>(a_.scale);
  if (layout_.dtype == DType::kF32) {
    kernels_.scale_to_float(reinterpret_cast<float*>(dst), src, scale, layout_.head_dim);
  } else {
    kernels_.scale_to_bf16(reinterpret_cast<uint16_t*>(dst), src, scale, layout_.head_dim);
  }
}

void Backward::store_queries(const QueryTile& tile, int64_t kv_head, ThreadScratch& t) {
  const int64_t rows = rows_of(tile), dim = layout_.head_dim;
  for (int64_t first = 0; first < rows; first += kPanel) {
    kernels_.transpose(t.rows, dim, reinterpret_cast<const uint32_t*>(t.dq + first * dim), kPanel,
                       dim, kPanel);
    const auto* panel = reinterpret_cast<const float*>(t.rows);
    for (int64_t r = std::max(first, padding_of(tile)); r < std::min(first + kPanel, rows); ++r) {
      store_scaled(row_data(a_.dq, token_of(tile, r), head_of(kv_head, r)),
                   panel + (r - first) * dim);
    }
  }
}

// dk and dv of a KV head from the slots of its parts, in order.
void Backward::sum_parts(const std::vector<Part>& parts, int64_t kv_head, int64_t first_slot) {
  const int64_t dim = layout_.head_dim, plane = a_.q.dim(0) * dim;
  const auto sum_row = [&](int64_t row, int64_t offset, float* sum) {
    std::fill_n(sum, dim, 0.0f);
    for (size_t p = 0; p < parts.size(); ++p) {
      if (row < parts[p].row_begin || row >= parts[p].row_end) continue;
      kernels_.add(sum, slot(first_slot + static_cast<int64_t>(p)) + offset + row * dim, dim);
    }
  };
  pool_.for_ranges(a_.q.dim(0), [&](int64_t begin, int64_t end, int thread) {
    Pieces pieces(a_.workspace.data() + thread * thread_bytes(layout_));
    auto* sum = reinterpret_cast<float*>(ThreadScratch(layout_, pieces).rows);
    for (const DocumentRange& d : documents_) {
      const int64_t last = std::min(end, d.row_begin + d.row_count);
      for (int64_t row = std::max(begin, d.row_begin); row < last; ++row) {
        sum_row(row, 0, sum);
        store_scaled(row_data(a_.dk, row, kv_head), sum);
        sum_row(row, plane, sum);
        std::byte* dv = row_data(a_.dv, row, kv_head);
        if (layout_.dtype == DType::kF32) {
          std::memcpy(dv, sum, static_cast<size_t>(dim) * 4);
        } else {
          kernels_.scale_to_bf16(reinterpret_cast<uint16_t*>(dv), sum, 1, dim);
        }
      }
    }
  });
}

}  // namespace

int64_t cpu_attention_backward_workspace_bytes(const AttentionShape& shape,
                                               const CpuContext& context) {
  check_attention_shape(shape);
  const AttentionLayout layout =
      backward_layout(context.isa, shape.dtype, shape.head_dim, shape.q_heads / shape.kv_heads);
  const int64_t slot_bytes = checked_mul<int64_t>(shape.rows, shape.head_dim * 2 * 4);
  return context.pool.size() * (thread_bytes(layout) + slot_bytes);
}

void cpu_attention_backward(const AttentionBackward& args, CpuContext& context) {
  require(args.q.defined() && args.q.rank() == 3 && args.k.defined() && args.k.rank() == 3,
          "cpu attention: q and k must be [rows, heads, head_dim]");
  check_attention(
      args,
      cpu_attention_backward_workspace_bytes(
          {args.q.dim(0), args.q.dim(1), args.k.dim(1), args.q.dim(2), args.q.dtype()}, context));
  Backward(args, context).run();
}

}  // namespace longgen
