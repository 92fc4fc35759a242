// Attention of the cuda backend: checks, descriptions for the kernels, which kernel runs.
#include <algorithm>
#include <bit>
#include <cmath>

#include "longgen/backend/cuda/attention/work_list.h"
#include "longgen/backend/cuda/cuda_backend.h"
#include "longgen/backend/operand_checks.h"
#include "longgen/base/error.h"

namespace longgen::cuda {
namespace {

constexpr int64_t kMostHeadDim = 256;
constexpr int64_t kLeastTilesPerSplit = 4;

const OperandChecks& checks() {
  static const OperandChecks value("cuda attention", longgen::Device::kCuda);
  return value;
}

// Tensor-core kernels copy 16 bytes at a time.
bool in_sixteens(const void* data, std::initializer_list<int64_t> strides) {
  if (reinterpret_cast<uintptr_t>(data) % 16 != 0) return false;
  return std::ranges::all_of(strides, [](int64_t s) { return s % 8 == 0; });
}
bool in_sixteens(const Tensor& x) { return in_sixteens(x.raw(), {x.stride(0), x.stride(1)}); }

void check_queries(const Tensor& q, int64_t kv_heads, const AttentionPattern* pattern,
                   int64_t kv_head_begin, double scale) {
  checks().rank("call", "q", q, 3);
  checks().activation("call", "q", q);
  const int64_t heads = q.dim(1), dim = q.dim(2);
  require(dim > 0 && dim % 16 == 0 && dim <= kMostHeadDim,
          "cuda attention: head_dim {} is not a multiple of 16 up to {}", dim, kMostHeadDim);
  require(kv_heads > 0 && heads % kv_heads == 0,
          "cuda attention: {} query heads cannot share {} KV heads evenly", heads, kv_heads);
  require(pattern != nullptr, "cuda attention: no pattern was given");
  const auto offsets = static_cast<int64_t>(pattern->offsets.size());
  pattern->validate(offsets == 1 ? kv_heads : offsets);
  require(kv_head_begin >= 0 && (offsets == 1 || kv_head_begin + kv_heads <= offsets),
          "cuda attention: KV heads [{}, {}) but the pattern has offsets for {}", kv_head_begin,
          kv_head_begin + kv_heads, offsets);
  require(std::isfinite(scale) && scale > 0, "cuda attention: scale {} must be positive", scale);
}

void check_sequence(const AttentionSequence& s, int64_t rows) {
  require(s.row_begin >= 0 && s.row_count >= 0 && s.row_begin <= rows - s.row_count,
          "cuda attention: a sequence has rows {} + {} of {}", s.row_begin, s.row_count, rows);
  require(s.first_position >= 0 && s.first_position + s.row_count <= s.kv.length,
          "cuda attention: queries at positions [{}, {}), but keys for {}", s.first_position,
          s.first_position + s.row_count, s.kv.length);
  require(s.kv.length <= INT32_MAX / 2, "cuda attention: {} keys in a sequence", s.kv.length);
  require(s.row_count == 0 || (s.kv.keys != nullptr && s.kv.values != nullptr),
          "cuda attention: a sequence has no keys or values");
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

std::vector<SequenceArgs> CudaBackend::sequence_args(const AttentionForward& a) {
  std::vector<SequenceArgs> sequences;
  for (const AttentionSequence& s : a.sequences) {
    check_sequence(s, a.q.dim(0));
    SequenceArgs args{.keys = s.kv.keys,
                      .values = s.kv.values,
                      .page_stride = s.kv.page_stride,
                      .head_stride = s.kv.head_stride,
                      .token_stride = s.kv.token_stride,
                      .row_begin = s.row_begin,
                      .row_count = s.row_count,
                      .first_position = s.first_position,
                      .length = s.kv.length};
    if (s.kv.block_table != nullptr) {
      args.block_table =
          uploads_.put(std::span(s.kv.block_table, static_cast<size_t>(s.kv.block_table_size)));
    }
    sequences.push_back(args);
  }
  return sequences;
}

int64_t CudaBackend::attention_forward_workspace_bytes(const AttentionShape&) const { return 0; }

void CudaBackend::attention_forward(const AttentionForward& a) {
  check_queries(a.q, a.kv_heads, a.pattern, a.kv_head_begin, a.scale);
  checks().like("forward", "out", a.out, a.q.dtype(), a.q);
  require(a.kv_dtype == a.q.dtype(), "cuda attention: keys and values are {}, queries {}",
          dtype_name(a.kv_dtype), dtype_name(a.q.dtype()));
  if (a.lse.defined()) {
    checks().exact("forward", "lse", a.lse, DType::kF32, {a.q.dim(1), a.q.dim(0)});
  }
  const int64_t group = a.q.dim(1) / a.kv_heads;
  const auto sequences = sequence_args(a);
  std::vector<int64_t> packed;
  int64_t longest = 0;
  bool mma = a.q.dtype() == DType::kBF16 && has_mma_kernel(a.q.dim(2)) && in_sixteens(a.q) &&
             in_sixteens(a.out);
  for (const SequenceArgs& s : sequences) {
    packed.push_back(s.row_count * group);
    longest = std::max(longest, s.length);
    for (const void* data : {s.keys, s.values}) {
      mma = mma && in_sixteens(data, {s.page_stride, s.head_stride, s.token_stride});
    }
  }
  const auto tiles = make_tiles(packed);
  if (tiles.empty()) return;
  ForwardArgs f{.q = a.q.raw(),
                .out = a.out.raw(),
                .lse = a.lse.defined() ? a.lse.data<float>() : nullptr,
                .q_row = a.q.stride(0),
                .q_head = a.q.stride(1),
                .out_row = a.out.stride(0),
                .out_head = a.out.stride(1),
                .lse_head = a.lse.defined() ? a.lse.stride(0) : 0,
                .sequences = uploads_.put(std::span(sequences)),
                .tiles = uploads_.put(std::span(tiles)),
                .tile_count = static_cast<int32_t>(tiles.size()),
                .kv_heads = static_cast<int32_t>(a.kv_heads),
                .group = static_cast<int32_t>(group),
                .head_dim = static_cast<int32_t>(a.q.dim(2)),
                .pattern = pattern_args(*a.pattern, a.kv_heads, a.kv_head_begin),
                .scale = static_cast<float>(a.scale)};
  if (!mma) {
    attention_forward_simple(f, a.q.dtype() == DType::kBF16, stream_.get());
    return;
  }
  const int64_t blocks = f.tile_count * a.kv_heads;
  int64_t visible = (longest + kTileRows - 1) / kTileRows;
  if (!a.pattern->is_full()) {
    visible = a.pattern->tokens_kept(longest, a.kv_head_begin) / kTileRows;
  }
  f.splits = key_splits(blocks, device_.processors, visible, kLeastTilesPerSplit);
  f.partials = f.splits > 1 ? scratch_.get<float>() : nullptr;
  require(f.splits == 1 || f.splits * blocks * kTileRows * (f.head_dim + 2) * 4 <= scratch_.bytes(),
          "cuda attention: {} pieces of {} tiles do not fit", f.splits, blocks);
  attention_forward_mma(f, stream_.get());
}

int64_t CudaBackend::attention_backward_workspace_bytes(const AttentionShape& shape) const {
  return shape.q_heads * shape.rows * static_cast<int64_t>(sizeof(float));
}

void CudaBackend::attention_backward(const AttentionBackward& a) {
  checks().rank("backward", "k", a.k, 3);
  const int64_t kv_heads = a.k.dim(1);
  check_queries(a.q, kv_heads, a.pattern, a.kv_head_begin, a.scale);
  const int64_t rows = a.q.dim(0), heads = a.q.dim(1), dim = a.q.dim(2);
  const DType dtype = a.q.dtype();
  for (const Tensor* x : {&a.dq, &a.out, &a.dout}) checks().like("backward", "dq", *x, dtype, a.q);
  for (const Tensor* x : {&a.k, &a.v, &a.dk, &a.dv}) {
    checks().exact("backward", "k", *x, dtype, {rows, kv_heads, dim});
  }
  checks().exact("backward", "lse", a.lse, DType::kF32, {heads, rows});
  const int64_t needed =
      attention_backward_workspace_bytes({rows, heads, kv_heads, dim, a.q.dtype()});
  require(static_cast<int64_t>(a.workspace.size()) >= needed,
          "cuda attention: the workspace has {} bytes, {} are needed", a.workspace.size(), needed);

  std::vector<SequenceArgs> documents;
  std::vector<int64_t> packed, keys;
  int64_t covered = 0;
  for (const DocumentRange& d : a.documents) {
    require(d.row_begin >= 0 && d.row_count >= 0 && d.row_begin <= rows - d.row_count,
            "cuda attention: a document has rows {} + {} of {}", d.row_begin, d.row_count, rows);
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
                 .documents = uploads_.put(std::span<const SequenceArgs>(documents)),
                 .query_tiles = uploads_.put(std::span(query_tiles)),
                 .key_tiles = uploads_.put(std::span(key_tiles)),
                 .query_tile_count = static_cast<int32_t>(query_tiles.size()),
                 .key_tile_count = static_cast<int32_t>(key_tiles.size()),
                 .kv_heads = static_cast<int32_t>(kv_heads),
                 .group = static_cast<int32_t>(heads / kv_heads),
                 .head_dim = static_cast<int32_t>(dim),
                 .rows = rows,
                 .pattern = pattern_args(*a.pattern, kv_heads, a.kv_head_begin),
                 .scale = static_cast<float>(a.scale)};
  b.q = strides(a.q, &b.q_row, &b.q_head);
  b.k = strides(a.k, &b.k_row, &b.k_head);
  b.v = strides(a.v, &b.v_row, &b.v_head);
  b.out = strides(a.out, &b.out_row, &b.out_head);
  b.dout = strides(a.dout, &b.dout_row, &b.dout_head);
  b.dq = strides(a.dq, &b.dq_row, &b.dq_head);
  b.dk = strides(a.dk, &b.dk_row, &b.dk_head);
  b.dv = strides(a.dv, &b.dv_row, &b.dv_head);
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
  checks().rank("kv_write", "k", k, 3);
  checks().activation("kv_write", "k", k);
  checks().like("kv_write", "v", v, kv_dtype, k);
  require(first_position >= 0 && block_size > 0 &&
              std::has_single_bit(static_cast<uint64_t>(block_size)),
          "cuda kv_write: position {}, block size {}", first_position, block_size);
  KvWriteArgs args{.to = {.keys = kv.keys,
                          .values = kv.values,
                          .page_stride = kv.page_stride,
                          .head_stride = kv.head_stride,
                          .token_stride = kv.token_stride},
                   .k = k.raw(),
                   .v = v.raw(),
                   .k_row = k.stride(0),
                   .k_head = k.stride(1),
                   .v_row = v.stride(0),
                   .v_head = v.stride(1),
                   .first_position = first_position,
                   .count = k.dim(0),
                   .kv_heads = static_cast<int32_t>(k.dim(1)),
                   .head_dim = static_cast<int32_t>(k.dim(2)),
                   .block_shift = std::countr_zero(static_cast<uint64_t>(block_size))};
  if (kv.block_table != nullptr) {
    for (int64_t block = first_position / block_size;
         block * block_size < first_position + k.dim(0); ++block) {
      require(block < kv.block_table_size && kv.block_table[block] >= 0,
              "cuda kv_write: block {} has no page in a table of {}", block, kv.block_table_size);
    }
    args.to.block_table =
        uploads_.put(std::span(kv.block_table, static_cast<size_t>(kv.block_table_size)));
  }
  cuda::kv_write(args, kv_dtype == DType::kBF16, stream_.get());
}

}  // namespace longgen::cuda
