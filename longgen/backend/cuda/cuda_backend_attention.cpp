// Attention of the cuda backend: checks, descriptions for the kernels, which kernel runs.
#include <algorithm>
#include <bit>
#include <optional>

#include "longgen/backend/attention_checks.h"
#include "longgen/backend/cuda/alignment.h"
#include "longgen/backend/cuda/attention/hopper/backward.h"
#include "longgen/backend/cuda/attention/hopper/decode_args.h"
#include "longgen/backend/cuda/attention/hopper/forward_plan.h"
#include "longgen/backend/cuda/attention/work_list.h"
#include "longgen/backend/cuda/cuda_backend.h"
#include "longgen/base/error.h"

namespace longgen::cuda {
namespace {

constexpr int64_t kMostHeadDim = 256;
constexpr int64_t kLeastTilesPerSplit = 4;
constexpr size_t kLeastTable = 64;  // entries: shorter block tables have the same capacity

AttentionChecks attention_checks() { return {"cuda", longgen::Device::kCuda}; }

// Tensor-core kernels copy 16 bytes at a time.
bool in_sixteens(const void* data, std::initializer_list<int64_t> strides) {
  return in_pieces(data, 8, dtype_size(DType::kBF16), strides);
}
bool in_sixteens(const Tensor& x) { return in_sixteens(x.raw(), {x.stride(0), x.stride(1)}); }

// Beyond what every backend asks for: what the kernels' channels and 32-bit positions reach.
void check_reach(int64_t head_dim, const AttentionSequence& s) {
  require(head_dim <= kMostHeadDim, "cuda attention: head_dim {} is more than {}", head_dim,
          kMostHeadDim);
  require(s.first_position >= 0 && s.first_position + s.row_count <= s.kv.length &&
              s.kv.length <= INT32_MAX / 2,
          "cuda attention: queries at positions [{}, {}) and {} keys in a sequence",
          s.first_position, s.first_position + s.row_count, s.kv.length);
}

int64_t most_queries(std::span<const SequenceArgs> sequences) {
  int64_t rows = 0;
  for (const SequenceArgs& s : sequences) rows = std::max(rows, s.row_count);
  return rows;
}

// Of hopper/: the kernel for up to 16 packed rows.
std::optional<hopper::DecodeArgs> decode_args(const ForwardArgs& f,
                                              std::span<const SequenceArgs> sequences,
                                              int64_t key_tiles, int processors,
                                              const Buffer& scratch, const Buffer& arrived) {
  if (!hopper::takes_decode(f, most_queries(sequences))) return std::nullopt;
  const auto count = static_cast<int32_t>(sequences.size());
  const auto pieces = hopper::decode_pieces(int64_t{count} * f.kv_heads, key_tiles, processors);
  hopper::DecodeArgs d{.call = f, .sequences = count, .pieces = pieces.count};
  if (pieces.clustered || pieces.count == 1) return d;
  require(
      hopper::decode_partial_bytes(count * f.kv_heads, d.pieces, f.head_dim) <= scratch.bytes() &&
          count * f.kv_heads * static_cast<int64_t>(sizeof(uint32_t)) <= arrived.bytes(),
      "cuda attention: {} pieces of {} sequences do not fit", d.pieces, count);
  d.call.partials = scratch.get<float>();
  d.arrived = arrived.get<uint32_t>();
  return d;
}

// wgmma and TMA (hopper/), or the first kernels: those pack the heads of a group into one tile and
// cut the keys into pieces, which wins while a call has few queries.
bool runs_on_hopper_kernel(const ForwardArgs& f, std::span<const SequenceArgs> sequences,
                           int64_t key_tiles, int processors) {
  constexpr int64_t kFewKeyTiles = 64;
  if (!hopper::takes_forward(f)) return false;
  int64_t rows = 0, items = 0;
  for (const SequenceArgs& s : sequences) {
    rows = std::max(rows, s.row_count);
    items += s.row_count / hopper::tile_rows(f.head_dim) + 1;
  }
  if (rows * f.group <= kTileRows) return false;
  return f.splits == 1 || key_tiles <= kFewKeyTiles ||
         2 * items * f.group * f.kv_heads >= processors;
}

// f: complete but for the tiles.
hopper::HopperForwardArgs hopper_args(const AttentionForward& a, const ForwardArgs& f,
                                      std::span<const SequenceArgs> sequences, int processors,
                                      Uploads& uploads) {
  std::vector<int64_t> pages;
  for (const AttentionSequence& s : a.sequences) {
    const std::span table(s.kv.block_table, static_cast<size_t>(s.kv.block_table_size));
    pages.push_back(table.empty() ? 0 : std::ranges::max(table) + 1);
  }
  const int tile_rows = hopper::tile_rows(f.head_dim);
  const auto tiles = hopper::forward_tiles(sequences, tile_rows);
  const auto maps = hopper::forward_kv_maps(sequences, pages, f.kv_heads, f.head_dim);
  const int32_t zero = 0;
  hopper::HopperForwardArgs h{.q = {}, .out = {}, .call = f};
  h.call.tiles = uploads.put(std::span(tiles));
  h.call.tile_count = static_cast<int32_t>(tiles.size());
  h.kv = uploads.put(std::span(maps));
  h.next_item = static_cast<int32_t*>(uploads.put(&zero, sizeof zero));
  h.processors = processors;
  hopper::set_query_maps(h, a.q.dim(0), tile_rows);
  return h;
}

}  // namespace

PatternArgs CudaBackend::pattern_args(const AttentionPattern& pattern, int64_t kv_heads,
                                      int64_t kv_head_begin) {
  std::vector<int32_t> offsets;
  for (int64_t h = 0; h < kv_heads; ++h) {
    offsets.push_back(static_cast<int32_t>(pattern.offset(kv_head_begin + h)));
  }
  const auto clamp = [](int64_t x) {
    return static_cast<int32_t>(std::min<int64_t>(x, INT32_MAX));
  };
  // Block counts beyond any sequence mean the same; these also keep sums inside 32 bits.
  const int64_t most = int64_t{1} << 24;
  return {.block_shift = std::countr_zero(static_cast<uint64_t>(pattern.block_size)),
          .sink_blocks = clamp(std::min(pattern.sink_blocks, most)),
          .local_blocks = pattern.local_blocks >= most ? INT32_MAX : clamp(pattern.local_blocks),
          .stride = clamp(std::min(pattern.stride, most)),
          .offsets = uploads_.put(std::span<const int32_t>(offsets))};
}

const int32_t* CudaBackend::put_table(const KvView& kv) {
  if (kv.block_table == nullptr) return nullptr;
  const std::span table(kv.block_table, static_cast<size_t>(kv.block_table_size));
  if (!steps_.active()) return uploads_.put(table);
  const auto capacity = static_cast<int64_t>(std::bit_ceil(std::max(table.size(), kLeastTable)));
  return static_cast<const int32_t*>(
      steps_.put_once(table.data(), static_cast<int64_t>(table.size_bytes()),
                      capacity * static_cast<int64_t>(sizeof(int32_t))));
}

SequenceArgs CudaBackend::sequence_args(const AttentionSequence& s) {
  return {.keys = s.kv.keys,
          .values = s.kv.values,
          .page_stride = s.kv.page_stride,
          .head_stride = s.kv.head_stride,
          .token_stride = s.kv.token_stride,
          .block_table = put_table(s.kv),
          .row_begin = s.row_begin,
          .row_count = s.row_count,
          .first_position = s.first_position,
          .length = s.kv.length};
}

int64_t CudaBackend::attention_forward_workspace_bytes(const AttentionShape&) const { return 0; }

void CudaBackend::attention_forward(const AttentionForward& a) {
  attention_checks().forward(a, 0);
  const int64_t group = a.q.dim(1) / a.kv_heads;
  std::vector<SequenceArgs> sequences;
  std::vector<int64_t> packed;
  int64_t longest = 0;
  bool mma = a.q.dtype() == DType::kBF16 && has_mma_kernel(a.q.dim(2)) && in_sixteens(a.q) &&
             in_sixteens(a.out);
  for (const AttentionSequence& sequence : a.sequences) {
    check_reach(a.q.dim(2), sequence);
    sequences.push_back(sequence_args(sequence));
    const SequenceArgs& s = sequences.back();
    packed.push_back(s.row_count * group);
    longest = std::max(longest, s.length);
    for (const void* data : {s.keys, s.values}) {
      mma = mma && in_sixteens(data, {s.page_stride, s.head_stride, s.token_stride});
    }
  }
  const auto tiles = make_tiles(packed);
  if (tiles.empty()) return;
  // In a step, launches depend on lengths only through this, so that the next step's are the same.
  if (steps_.active()) {
    longest = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(longest)));
  }
  ForwardArgs f{.q = a.q.raw(),
                .out = a.out.raw(),
                .lse = a.lse.defined() ? a.lse.data<float>() : nullptr,
                .q_row = a.q.stride(0),
                .q_head = a.q.stride(1),
                .out_row = a.out.stride(0),
                .out_head = a.out.stride(1),
                .lse_head = a.lse.defined() ? a.lse.stride(0) : 0,
                .sequences = uploads_.put(std::span<const SequenceArgs>(sequences)),
                .tiles = uploads_.put(std::span(tiles)),
                .tile_count = static_cast<int32_t>(tiles.size()),
                .kv_heads = static_cast<int32_t>(a.kv_heads),
                .group = static_cast<int32_t>(group),
                .head_dim = static_cast<int32_t>(a.q.dim(2)),
                .pattern = pattern_args(*a.pattern, a.kv_heads, a.kv_head_begin),
                .scale = static_cast<float>(a.scale)};
  const int64_t blocks = f.tile_count * a.kv_heads;
  std::optional<hopper::HopperForwardArgs> on_hopper;
  std::optional<hopper::DecodeArgs> decode;
  if (mma) {
    int64_t visible = (longest + kTileRows - 1) / kTileRows;
    if (!a.pattern->is_full()) {
      visible = a.pattern->tokens_kept(longest, a.kv_head_begin) / kTileRows;
    }
    f.splits = key_splits(blocks, device_.processors, visible, kLeastTilesPerSplit);
    decode = decode_args(f, sequences, visible, device_.processors, scratch_, arrived_);
    if (!decode && runs_on_hopper_kernel(f, sequences, visible, device_.processors)) {
      on_hopper = hopper_args(a, f, sequences, device_.processors, uploads_);
    }
  }
  if (collected("attention", a.out, a.lse, a.q, a.kv_dtype, a.kv_heads, a.pattern->block_size,
                a.pattern->sink_blocks, a.pattern->local_blocks, a.pattern->stride, a.scale,
                f.tile_count, mma, f.splits, on_hopper ? on_hopper->call.tile_count : -1,
                decode ? decode->pieces : -1, decode && decode->arrived != nullptr)) {
    return;
  }
  if (!mma) return attention_forward_simple(f, a.q.dtype() == DType::kBF16, stream_.get());
  if (decode) {
    // The kernel takes keys before its queries' blocks to be older than the step, which has
    // uploaded everything before it starts. Of a prompt whose last row alone has a query, they may
    // not be.
    const bool early = steps_.active() && written_rows_ <= most_queries(sequences);
    return f.head_dim == 128 ? hopper::launch_decode<128>(*decode, early, stream_.get())
                             : hopper::launch_decode<64>(*decode, early, stream_.get());
  }
  if (on_hopper) {
    return f.head_dim == 128 ? hopper::launch_forward<128>(*on_hopper, stream_.get())
                             : hopper::launch_forward<64>(*on_hopper, stream_.get());
  }
  f.partials = f.splits > 1 ? scratch_.get<float>() : nullptr;
  require(f.splits == 1 || f.splits * blocks * kTileRows * (f.head_dim + 2) * 4 <= scratch_.bytes(),
          "cuda attention: {} pieces of {} tiles do not fit", f.splits, blocks);
  attention_forward_mma(f, stream_.get());
}

int64_t CudaBackend::attention_backward_workspace_bytes(const AttentionShape& shape) const {
  return std::max(shape.q_heads * shape.rows * static_cast<int64_t>(sizeof(float)),
                  hopper::backward_workspace_bytes(shape));
}

void CudaBackend::attention_backward(const AttentionBackward& a) {
  refuse_in_step("attention backward");
  const int64_t rows = a.q.dim(0), heads = a.q.dim(1), dim = a.q.dim(2);
  const int64_t kv_heads = a.k.dim(1);
  const DType dtype = a.q.dtype();
  attention_checks().backward(
      a,
      attention_backward_workspace_bytes(
          {.rows = rows, .q_heads = heads, .kv_heads = kv_heads, .head_dim = dim, .dtype = dtype}));
  std::vector<SequenceArgs> documents;
  std::vector<int64_t> packed, keys;
  int64_t covered = 0;
  for (const DocumentRange& d : a.documents) {
    check_reach(dim, {.row_count = d.row_count, .kv = {.length = d.row_count}});
    documents.push_back(
        {.row_begin = d.row_begin, .row_count = d.row_count, .length = d.row_count});
    packed.push_back(d.row_count * (heads / kv_heads));
    keys.push_back(d.row_count);
    covered += d.row_count;
  }
  if (covered < rows) {
    for (const Tensor* x : {&a.dq, &a.dk, &a.dv}) zero(*x);
  }
  const auto query_tiles = make_tiles(packed), key_tiles = make_tiles(keys);
  if (query_tiles.empty()) return;
  const auto strides = [](const Tensor& x, int64_t* row, int64_t* head) {
    *row = x.stride(0);
    *head = x.stride(1);
    return x.raw();
  };
  BackwardArgs b{.lse = a.lse.data<float>(),
                 .delta = reinterpret_cast<float*>(a.workspace.data()),
                 .lse_head = a.lse.stride(0),
                 .delta_head = rows,
                 .query_tile_count = static_cast<int32_t>(query_tiles.size()),
                 .key_tile_count = static_cast<int32_t>(key_tiles.size()),
                 .kv_heads = static_cast<int32_t>(kv_heads),
                 .group = static_cast<int32_t>(heads / kv_heads),
                 .head_dim = static_cast<int32_t>(dim),
                 .rows = rows,
                 .scale = static_cast<float>(a.scale)};
  b.q = strides(a.q, &b.q_row, &b.q_head);
  b.k = strides(a.k, &b.k_row, &b.k_head);
  b.v = strides(a.v, &b.v_row, &b.v_head);
  b.out = strides(a.out, &b.out_row, &b.out_head);
  b.dout = strides(a.dout, &b.dout_row, &b.dout_head);
  b.dq = strides(a.dq, &b.dq_row, &b.dq_head);
  b.dk = strides(a.dk, &b.dk_row, &b.dk_head);
  b.dv = strides(a.dv, &b.dv_row, &b.dv_head);
  if (hopper::takes_backward(a)) {
    hopper::attention_backward(a, b, uploads_, device_.processors, stream_.get());
    return;
  }
  b.documents = uploads_.put(std::span<const SequenceArgs>(documents));
  b.query_tiles = uploads_.put(std::span(query_tiles));
  b.key_tiles = uploads_.put(std::span(key_tiles));
  b.pattern = pattern_args(*a.pattern, kv_heads, a.kv_head_begin);
  const bool bf16 = dtype == DType::kBF16;
  attention_delta(b, bf16, stream_.get());
  const auto inputs = {&a.q, &a.k, &a.v, &a.dout, &a.dq, &a.dk, &a.dv};
  if (bf16 && has_mma_kernel(dim) &&
      std::ranges::all_of(inputs, [](const Tensor* x) { return in_sixteens(*x); })) {
    attention_backward_mma(b, stream_.get());
  } else {
    attention_backward_simple(b, bf16, stream_.get());
  }
}

void CudaBackend::kv_write(const KvView& kv, DType kv_dtype, int64_t block_size,
                           int64_t first_position, const Tensor& k, const Tensor& v) {
  const AttentionSequence all{.row_count = k.dim(0), .first_position = first_position, .kv = kv};
  kv_write_all({&all, 1}, kv_dtype, block_size, k, v);
}

void CudaBackend::kv_write_all(std::span<const AttentionSequence> sequences, DType kv_dtype,
                               int64_t block_size, const Tensor& k, const Tensor& v) {
  require(kv_dtype == DType::kF32 || kv_dtype == DType::kBF16,
          "cuda kv_write: {} is not done; use f32 or bf16", dtype_name(kv_dtype));
  require(std::has_single_bit(static_cast<uint64_t>(block_size)),
          "cuda kv_write: block size {} is no power of two", block_size);
  std::vector<SequenceArgs> to;
  int64_t most_rows = 0;
  // Strides count in eights of bf16, more than f32 asks for.
  bool sixteens = in_sixteens(k) && in_sixteens(v) && k.dim(2) % 8 == 0;
  for (const AttentionSequence& s : sequences) {
    attention_checks().kv_write(s.kv, kv_dtype, block_size, s.first_position,
                                k.slice(0, s.row_begin, s.row_count),
                                v.slice(0, s.row_begin, s.row_count));
    to.push_back(sequence_args(s));
    most_rows = std::max(most_rows, s.row_count);
    for (const void* data : {s.kv.keys, s.kv.values}) {
      sixteens =
          sixteens && in_sixteens(data, {s.kv.page_stride, s.kv.head_stride, s.kv.token_stride});
    }
  }
  written_rows_ = most_rows;
  if (most_rows == 0) return;
  require(most_rows <= INT32_MAX / (k.dim(1) * k.dim(2)),
          "cuda kv_write: {} rows of {} x {} channels in a call", most_rows, k.dim(1), k.dim(2));
  const KvWriteArgs args{.sequences = uploads_.put(std::span<const SequenceArgs>(to)),
                         .sequence_count = static_cast<int32_t>(to.size()),
                         .k = k.raw(),
                         .v = v.raw(),
                         .k_row = k.stride(0),
                         .k_head = k.stride(1),
                         .v_row = v.stride(0),
                         .v_head = v.stride(1),
                         .most_rows = most_rows,
                         .in_sixteens = sixteens,
                         .kv_heads = static_cast<int32_t>(k.dim(1)),
                         .head_dim = static_cast<int32_t>(k.dim(2)),
                         .block_shift = std::countr_zero(static_cast<uint64_t>(block_size))};
  if (collected("kv_write", k, v, kv_dtype, block_size, to.size(), most_rows, sixteens)) {
    return;
  }
  cuda::kv_write(args, kv_dtype == DType::kBF16, stream_.get());
}

}  // namespace longgen::cuda
