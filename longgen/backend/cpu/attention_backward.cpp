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
#include "longgen/backend/cpu/attention_backward_parts.h"
#include "longgen/backend/cpu/attention_check.h"

namespace longgen {
namespace {

constexpr double kLog2E = 1.4426950408889634;

class Backward {
 public:
  Backward(const AttentionBackward& args, CpuContext& context)
      : a_(args),
        pool_(context.pool),
        layout_(backward_layout(context.isa, args.q.dtype(), args.q.dim(2),
                                args.q.dim(1) / args.k.dim(1))),
        kernels_(layout_.kernels),
        scale_(static_cast<float>(args.scale * kLog2E)),
        slots_(reinterpret_cast<float*>(args.workspace.data() +
                                        context.pool.size() * backward_scratch_bytes(layout_))),
        documents_(sorted_documents(args.documents)) {}

  void run();

 private:
  void zero_gaps();
  void zero_rows(const Tensor& x, int64_t begin, int64_t end);
  void run_part(const BackwardPart& part, int64_t kv_head, float* slot, BackwardScratch& t);
  void run_tile(const QueryTile& tile, int64_t kv_head, float* slot, BackwardScratch& t);
  void load_queries(const QueryTile& tile, int64_t kv_head, BackwardScratch& t);
  void load_panel(const Tensor& x, const QueryTile& tile, int64_t kv_head, int64_t first,
                  uint32_t* columns, uint32_t* paired, BackwardScratch& t);
  void fetch_panel(const QueryTile& tile, int64_t kv_head, int64_t first) const;
  void load_sums(int64_t row, int64_t token, int64_t head, BackwardScratch& t);
  float* sums_of(const KeyTile& keys, const QueryTile& tile, float* slot) const;
  void fetch_key_tile(const KeyTile& keys, const QueryTile& tile, int64_t kv_head, float* slot,
                      Fetcher& fetcher) const;
  void run_key_tile(const KeyTile& keys, const QueryTile& tile, int64_t kv_head, float* slot,
                    Fetcher& fetcher, BackwardScratch& t);
  AttentionGradientPanel panel_of(const KeyTile& keys, const QueryTile& tile, int64_t row,
                                  int64_t lanes, int64_t at, LeftOperand k_down,
                                  BackwardScratch& t);
  void run_panel(const AttentionGradientPanel& panel, BackwardScratch& t);
  void add_keys(const KeyTile& keys, int64_t row, int64_t count, float* dk, BackwardScratch& t);
  const float* lse_of(const KeyTile& keys, int64_t row, int64_t lanes, BackwardScratch& t) const;
  void store_queries(const QueryTile& tile, int64_t kv_head, BackwardScratch& t);
  void sum_parts(const std::vector<BackwardPart>& parts, int64_t kv_head, int64_t first_slot);
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
  // for_rows() with the token's row of all and the head of all.
  template <typename F>
  void for_query_rows(const QueryTile& tile, int64_t kv_head, int64_t begin, int64_t end,
                      F f) const {
    const int64_t first = document(tile).row_begin + tile.base,
                  head_begin = kv_head * layout_.group;
    for_rows(layout_.group, begin, end, [&](int64_t row, int64_t token, int64_t head) {
      f(row, first + token, head_begin + head);
    });
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
  int64_t plane() const { return accumulator_rows(a_.q.dim(0)) * layout_.head_dim; }
  // Accumulators of a slot: dk [rows, head_dim], then dv.
  float* slot(int64_t index) const { return slots_ + index * 2 * plane(); }

  const AttentionBackward& a_;
  ThreadPool& pool_;
  AttentionLayout layout_;
  const AttentionKernels& kernels_;
  float scale_;                           // of scores, in base 2
  float* slots_;                          // behind the threads' scratch
  std::vector<DocumentRange> documents_;  // ascending
};

void Backward::run() {
  zero_gaps();
  const int64_t threads = pool_.size(), kv_heads = a_.k.dim(1);
  const int64_t heads_at_once = std::gcd(threads, kv_heads), parts = threads / heads_at_once;
  const int64_t tokens = backward_tile_tokens(layout_, *a_.pattern, a_.q.dim(0), parts);
  if (documents_.empty()) return;
  for (int64_t first = 0; first < kv_heads; first += heads_at_once) {
    std::vector<std::vector<BackwardPart>> work;
    for (int64_t h = 0; h < heads_at_once; ++h) {
      work.push_back(
          cut_into_parts(documents_, *a_.pattern, a_.kv_head_begin + first + h, parts, tokens));
    }
    pool_.for_each(threads, [&](int64_t index, int thread) {
      BackwardScratch t(layout_, a_.workspace.data(), thread);
      const int64_t h = index / parts;
      run_part(work[static_cast<size_t>(h)][static_cast<size_t>(index % parts)], first + h,
               slot(index), t);
    });
    for (int64_t h = 0; h < heads_at_once; ++h) {
      sum_parts(work[static_cast<size_t>(h)], first + h, h * parts);
    }
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

void Backward::run_part(const BackwardPart& part, int64_t kv_head, float* slot,
                        BackwardScratch& t) {
  const int64_t dim = layout_.head_dim;
  for (float* x : {slot, slot + plane()}) {
    std::fill(x + part.row_begin * dim, x + part.row_end * dim, 0.0f);
  }
  const ProductScope scope(kernels_);
  for (const QueryTile& tile : part.tiles) run_tile(tile, kv_head, slot, t);
}

void Backward::run_tile(const QueryTile& tile, int64_t kv_head, float* slot, BackwardScratch& t) {
  load_queries(tile, kv_head, t);
  std::fill_n(t.dq, round_up<int64_t>(rows_of(tile), kPanel) * layout_.head_dim, 0.0f);
  KeyTiles tiles(*a_.pattern, tile, a_.kv_head_begin + kv_head, layout_.group,
                 KeyJoining::kNeighbours);
  t.panel_count = t.key_tile_count = 0;
  KeyTile keys, next;
  Fetcher fetcher;
  for (bool more = tiles.next(&next); more;) {
    keys = next;
    more = tiles.next(&next);
    fetcher.clear();
    if (more) fetch_key_tile(next, tile, kv_head, slot, fetcher);
    fetcher.spread(ceil_div(keys.row_end - keys.row_begin, kPanel));
    run_key_tile(keys, tile, kv_head, slot, fetcher, t);
  }
  if (t.panel_count > 0) kernels_.backward_turn(nullptr, &t.panels[(t.panel_count - 1) % 2]);
  store_queries(tile, kv_head, t);
}

float* Backward::sums_of(const KeyTile& keys, const QueryTile& tile, float* slot) const {
  return slot +
         (document(tile).row_begin + keys.blocks[0] * a_.pattern->block_size) * layout_.head_dim;
}

// What run_key_tile() will read and write.
void Backward::fetch_key_tile(const KeyTile& keys, const QueryTile& tile, int64_t kv_head,
                              float* slot, Fetcher& fetcher) const {
  for (const Tensor* x : {&a_.k, &a_.v}) {
    const KvView view = view_of(*x, tile);
    add_key_rows(layout_, fetcher, keys, view, view.keys, a_.pattern->block_size, kv_head);
  }
  const int64_t row_bytes = layout_.head_dim * static_cast<int64_t>(sizeof(float));
  const float* dk = sums_of(keys, tile, slot);
  for (const float* sums : {dk, dk + plane()}) {
    fetcher.add(sums, keys.keys, row_bytes, row_bytes);
  }
}

// One panel of q or dout in both layouts; t.rows is used.
void Backward::load_panel(const Tensor& x, const QueryTile& tile, int64_t kv_head, int64_t first,
                          uint32_t* columns, uint32_t* paired, BackwardScratch& t) {
  const int64_t units = layout_.row_units, end = std::min(first + kPanel, rows_of(tile));
  uint32_t* rows = kernels_.bf16_units ? t.rows : paired;
  std::memset(rows, 0, static_cast<size_t>(kPanel * units) * 4);
  const int64_t token_begin = document(tile).row_begin + tile.base,
                head_begin = kv_head * layout_.group;
  for_groups(layout_.group, std::max(first, padding_of(tile)), end,
             [&](int64_t r, int64_t token, int64_t head, int64_t heads) {
               load_rows(layout_, rows + (r - first) * units,
                         row_data(x, token_begin + token, head_begin + head), x.stride(1), heads);
             });
  kernels_.transpose(columns, kPanel, rows, units, kPanel, units);
  if (!kernels_.bf16_units) return;
  kernels_.pair_rows(paired, layout_.head_dim, reinterpret_cast<const uint16_t*>(rows), layout_.row,
                     kPanel, layout_.head_dim);
}

// What load_queries() reads for the panel that begins at row `first`: a group's rows lie far apart,
// and a processor does not foresee them.
void Backward::fetch_panel(const QueryTile& tile, int64_t kv_head, int64_t first) const {
  const int64_t group = layout_.group, size = dtype_size(layout_.dtype);
  const int64_t begin = std::max(first / group, tile.begin - tile.base);
  const int64_t end = ceil_div(std::min(first + kPanel, rows_of(tile)), group);
  if (begin >= end) return;
  const int64_t row = document(tile).row_begin + tile.base + begin;
  for (const Tensor* x : {&a_.q, &a_.dout, &a_.out}) {
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      fetch_rows(row_data(*x, row, head), end - begin, layout_.head_dim * size,
                 x->stride(0) * size);
    }
  }
}

void Backward::load_queries(const QueryTile& tile, int64_t kv_head, BackwardScratch& t) {
  const int64_t rows = rows_of(tile), padding = padding_of(tile);
  const int64_t padded = round_up<int64_t>(rows, kPanel), units = layout_.row_units;
  std::fill_n(t.lse, padded, INFINITY);
  std::fill_n(t.delta, padded, 0.0f);
  fetch_panel(tile, kv_head, 0);
  for (int64_t first = 0; first < padded; first += kPanel) {
    fetch_panel(tile, kv_head, first + kPanel);
    const int64_t paired = layout_.element_units(first) * paired_row();
    load_panel(a_.q, tile, kv_head, first, t.q_columns + first * units, t.q_paired + paired, t);
    load_panel(a_.dout, tile, kv_head, first, t.dout_columns + first * units,
               t.dout_paired + paired, t);
    for_query_rows(tile, kv_head, std::max(first, padding), std::min(first + kPanel, rows),
                   [&](int64_t r, int64_t token, int64_t head) { load_sums(r, token, head, t); });
  }
  t.masks.fill(*a_.pattern, tile, layout_.group, padded);
}

// lse and delta of a row of the tile.
void Backward::load_sums(int64_t row, int64_t token, int64_t head, BackwardScratch& t) {
  const int64_t dim = layout_.head_dim;
  auto* staged = reinterpret_cast<float*>(t.rows);
  const float* pair[2];
  for (int i = 0; i < 2; ++i) {
    const std::byte* src = row_data(i == 0 ? a_.dout : a_.out, token, head);
    pair[i] = reinterpret_cast<const float*>(src);
    if (layout_.dtype == DType::kF32) continue;
    kernels_.bf16_to_float(staged + i * dim, reinterpret_cast<const uint16_t*>(src), dim);
    pair[i] = staged + i * dim;
  }
  t.delta[row] = kernels_.dot(pair[0], pair[1], dim);
  const auto* lse = static_cast<const float*>(a_.lse.raw());
  t.lse[row] = lse[head * a_.lse.stride(0) + token] * static_cast<float>(kLog2E);
}

void Backward::run_key_tile(const KeyTile& keys, const QueryTile& tile, int64_t kv_head,
                            float* slot, Fetcher& fetcher, BackwardScratch& t) {
  const int64_t block_size = a_.pattern->block_size;
  const KvView k = view_of(a_.k, tile), v = view_of(a_.v, tile);
  load_key_rows(layout_, t.k_rows, keys, k, k.keys, block_size, kv_head);
  load_key_rows(layout_, t.v_rows, keys, v, v.keys, block_size, kv_head);
  uint32_t* k_units = t.k_units[t.key_tile_count++ % 2];
  const LeftOperand k_down = down_columns(layout_, t.k_rows, keys.keys, k_units);
  float* dk = sums_of(keys, tile, slot);
  const int64_t step = layout_.lane_step(), end = round_up(keys.row_end, step);
  const int64_t most = group_rows(layout_);
  for (int64_t row = keys.row_begin / step * step; row < end;) {
    const int64_t group = std::min(most - row % kPanel, end - row);
    for (int64_t at = 0; at < group;) {
      const int64_t lanes = std::min(kPanel - (row + at) % kPanel, group - at);
      fetcher.fetch();
      run_panel(panel_of(keys, tile, row + at, lanes, at, k_down, t), t);
      at += lanes;
    }
    add_keys(keys, row, group, dk, t);
    row += group;
  }
}

// With turns, dq of the panel follows with the next one.
void Backward::run_panel(const AttentionGradientPanel& panel, BackwardScratch& t) {
  if (kernels_.backward_turn == nullptr) {
    kernels_.backward(panel);
    return;
  }
  const int64_t now = t.panel_count % 2;
  t.panels[now] = panel;
  kernels_.backward_turn(&t.panels[now], t.panel_count > 0 ? &t.panels[1 - now] : nullptr);
  ++t.panel_count;
}

// dk and dv of the key tile from rows [row, row + count); dk points to the tile's rows of the slot,
// those of dv lie a plane behind.
void Backward::add_keys(const KeyTile& keys, int64_t row, int64_t count, float* dk,
                        BackwardScratch& t) {
  const int64_t paired = layout_.element_units(row) * paired_row();
  AttentionProduct product = {.m = round_up<int64_t>(keys.keys, 16),
                              .n = layout_.head_dim,
                              .depth = layout_.element_units(count),
                              .a = t.p_rows,
                              .a_row = layout_.element_units(group_rows(layout_)),
                              .a_depth = 1,
                              .b = t.dout_paired + paired,
                              .b_depth = paired_row(),
                              .c = dk + plane(),
                              .c_row = layout_.head_dim,
                              .accumulate = true};
  kernels_.product(product);
  product.a = t.ds_rows;
  product.b = t.q_paired + paired;
  product.c = dk;
  kernels_.product(product);
}

// The tile's lse with rows that do not see the key tile masked.
const float* Backward::lse_of(const KeyTile& keys, int64_t row, int64_t lanes,
                              BackwardScratch& t) const {
  if (row >= keys.row_begin && row + lanes <= keys.row_end) return t.lse + row;
  for (int64_t i = 0; i < lanes; ++i) {
    const bool sees = row + i >= keys.row_begin && row + i < keys.row_end;
    t.lse_masked[i] = sees ? t.lse[row + i] : INFINITY;
  }
  return t.lse_masked;
}

// The panel's probabilities are rows `at` and on of their group.
AttentionGradientPanel Backward::panel_of(const KeyTile& keys, const QueryTile& tile, int64_t row,
                                          int64_t lanes, int64_t at, LeftOperand k_down,
                                          BackwardScratch& t) {
  const int64_t dim = layout_.head_dim, panel = row / kPanel * kPanel, lane = row % kPanel;
  const int64_t n = round_up<int64_t>(keys.keys, 16), padded = layout_.padded_keys(keys.keys);
  uint32_t* ds_paired = t.ds_paired[t.panel_count % 2];
  AttentionGradientPanel out;
  out.scores = {.m = n,
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
  out.dprobabilities = out.scores;
  out.dprobabilities.a = t.v_rows;
  out.dprobabilities.b = t.dout_columns + panel * layout_.row_units + lane;
  out.dprobabilities.c = t.dp;
  out.gradient = {.s = t.s,
                  .dp = t.dp,
                  .keys = n,
                  .padded_keys = padded,
                  .lanes = lanes,
                  .scale = scale_,
                  .mask = t.masks.of(keys, *a_.pattern, tile, row, lanes),
                  .lse = lse_of(keys, row, lanes, t),
                  .delta = t.delta + row,
                  .p_rows = t.p_rows + layout_.element_units(at),
                  .ds_rows = t.ds_rows + layout_.element_units(at),
                  .row_units = layout_.element_units(group_rows(layout_)),
                  .ds_paired = kernels_.bf16_units ? ds_paired : nullptr};
  out.dq = {.m = dim,
            .n = lanes,
            .depth = layout_.element_units(padded),
            .a = k_down.data,
            .a_row = k_down.row,
            .a_depth = k_down.depth,
            .b = kernels_.bf16_units ? ds_paired : t.ds_rows,
            .b_depth = kPanel,
            .c = t.dq + panel * dim + lane,
            .c_row = kPanel,
            .accumulate = true};
  return out;
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

void Backward::store_queries(const QueryTile& tile, int64_t kv_head, BackwardScratch& t) {
  const int64_t rows = rows_of(tile), dim = layout_.head_dim;
  for (int64_t first = 0; first < rows; first += kPanel) {
    kernels_.transpose(t.rows, dim, reinterpret_cast<const uint32_t*>(t.dq + first * dim), kPanel,
                       dim, kPanel);
    const auto* panel = reinterpret_cast<const float*>(t.rows);
    for_query_rows(tile, kv_head, std::max(first, padding_of(tile)), std::min(first + kPanel, rows),
                   [&](int64_t r, int64_t token, int64_t head) {
                     store_scaled(row_data(a_.dq, token, head), panel + (r - first) * dim);
                   });
  }
}

// dk and dv of a KV head from the slots of its parts, in order.
void Backward::sum_parts(const std::vector<BackwardPart>& parts, int64_t kv_head,
                         int64_t first_slot) {
  const int64_t dim = layout_.head_dim;
  const auto sum_row = [&](int64_t row, int64_t offset, float* sum) {
    std::fill_n(sum, dim, 0.0f);
    for (size_t p = 0; p < parts.size(); ++p) {
      if (row < parts[p].row_begin || row >= parts[p].row_end) continue;
      kernels_.add(sum, slot(first_slot + static_cast<int64_t>(p)) + offset + row * dim, dim);
    }
  };
  pool_.for_ranges(a_.q.dim(0), [&](int64_t begin, int64_t end, int thread) {
    auto* sum =
        reinterpret_cast<float*>(BackwardScratch(layout_, a_.workspace.data(), thread).rows);
    for (const DocumentRange& d : documents_) {
      const int64_t last = std::min(end, d.row_begin + d.row_count);
      for (int64_t row = std::max(begin, d.row_begin); row < last; ++row) {
        sum_row(row, 0, sum);
        store_scaled(row_data(a_.dk, row, kv_head), sum);
        sum_row(row, plane(), sum);
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
  cpu::attention_checks().shape(shape);
  const AttentionLayout layout =
      backward_layout(context.isa, shape.dtype, shape.head_dim, shape.q_heads / shape.kv_heads);
  const int64_t slot_bytes =
      checked_mul<int64_t>(accumulator_rows(shape.rows), shape.head_dim * 2 * 4);
  return context.pool.size() * (backward_scratch_bytes(layout) + slot_bytes);
}

void cpu_attention_backward(const AttentionBackward& args, CpuContext& context) {
  require(args.q.defined() && args.q.rank() == 3 && args.k.defined() && args.k.rank() == 3,
          "cpu attention: q and k must be [rows, heads, head_dim]");
  cpu::attention_checks().backward(
      args,
      cpu_attention_backward_workspace_bytes(
          {args.q.dim(0), args.q.dim(1), args.k.dim(1), args.q.dim(2), args.q.dtype()}, context));
  Backward(args, context).run();
}

}  // namespace longgen
