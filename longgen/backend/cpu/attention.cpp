// Argument checks of attention, and kv_write.
#include "longgen/backend/cpu/attention.h"

#include <cmath>
#include <cstring>
#include <string>

#include "longgen/backend/cpu/attention_check.h"
#include "longgen/base/error.h"

namespace longgen {
namespace {

void check_tensor(const char* name, const Tensor& x, DType dtype,
                  std::initializer_list<int64_t> shape) {
  const Tensor wanted(nullptr, dtype, shape);
  require(x.defined() && x.dtype() == dtype && x.device() == Device::kHost &&
              std::equal(shape.begin(), shape.end(), x.shape().begin(), x.shape().end()),
          "cpu attention: {} is {}, expected {}", name,
          x.defined() ? x.shape_string() : "undefined", wanted.shape_string());
}

void check_common(const Tensor& q, int64_t kv_heads, int64_t kv_head_begin,
                  const AttentionPattern* pattern, double scale) {
  require(q.defined() && q.rank() == 3, "cpu attention: q is {}, expected [rows, heads, head_dim]",
          q.defined() ? q.shape_string() : "undefined");
  require(q.dtype() == DType::kF32 || q.dtype() == DType::kBF16,
          "cpu attention: {} is not done on the cpu backend; use f32 or bf16",
          dtype_name(q.dtype()));
  const int64_t heads = q.dim(1), dim = q.dim(2);
  require(dim > 0 && dim % 16 == 0, "cpu attention: head_dim {} is not a multiple of 16", dim);
  require(kv_heads > 0 && heads % kv_heads == 0,
          "cpu attention: {} query heads cannot share {} KV heads evenly", heads, kv_heads);
  require(pattern != nullptr, "cpu attention: no pattern was given");
  // The pattern's own check wants the model's number of KV heads; this call may hold a part of
  // them.
  const auto offsets = static_cast<int64_t>(pattern->offsets.size());
  pattern->validate(offsets == 1 ? kv_heads : offsets);
  require(kv_head_begin >= 0 && (offsets == 1 || kv_head_begin + kv_heads <= offsets),
          "cpu attention: KV heads [{}, {}) but the pattern has offsets for {}", kv_head_begin,
          kv_head_begin + kv_heads, offsets);
  require(std::isfinite(scale) && scale > 0, "cpu attention: scale {} must be positive", scale);
}

void check_workspace(std::span<std::byte> workspace, int64_t needed) {
  require(static_cast<int64_t>(workspace.size()) >= needed,
          "cpu attention: the workspace has {} bytes, {} are needed", workspace.size(), needed);
  require(reinterpret_cast<uintptr_t>(workspace.data()) % 64 == 0,
          "cpu attention: the workspace is not aligned to 64 bytes");
}

void check_sequence(const AttentionSequence& s, int64_t index, int64_t rows) {
  require(s.row_begin >= 0 && s.row_count >= 0 && s.row_begin <= rows - s.row_count,
          "cpu attention: sequence {} has rows {} + {} of {}", index, s.row_begin, s.row_count,
          rows);
  if (s.row_count == 0) return;
  require(s.first_position >= 0 && s.first_position + s.row_count <= s.kv.length,
          "cpu attention: sequence {} has queries at positions [{}, {}), but keys for {}", index,
          s.first_position, s.first_position + s.row_count, s.kv.length);
  require(s.kv.keys != nullptr && s.kv.values != nullptr,
          "cpu attention: sequence {} has no keys or values", index);
}

}  // namespace

void check_attention_shape(const AttentionShape& shape) {
  require(shape.kv_heads > 0 && shape.q_heads % shape.kv_heads == 0 && shape.head_dim > 0 &&
              shape.head_dim % 16 == 0,
          "cpu attention: {} query heads, {} KV heads, head_dim {}", shape.q_heads, shape.kv_heads,
          shape.head_dim);
}

void check_attention(const AttentionForward& a, int64_t workspace_bytes) {
  check_common(a.q, a.kv_heads, a.kv_head_begin, a.pattern, a.scale);
  const int64_t rows = a.q.dim(0), heads = a.q.dim(1), dim = a.q.dim(2);
  check_tensor("out", a.out, a.q.dtype(), {rows, heads, dim});
  if (a.lse.defined()) check_tensor("lse", a.lse, DType::kF32, {heads, rows});
  require(a.kv_dtype == a.q.dtype(),
          "cpu attention: keys and values are {}, queries {}; they must agree",
          dtype_name(a.kv_dtype), dtype_name(a.q.dtype()));
  int64_t index = 0;
  for (const AttentionSequence& s : a.sequences) check_sequence(s, index++, rows);
  check_workspace(a.workspace, workspace_bytes);
}

void check_attention(const AttentionBackward& a, int64_t workspace_bytes) {
  require(a.k.defined() && a.k.rank() == 3,
          "cpu attention: k is {}, expected [rows, kv_heads, head_dim]",
          a.k.defined() ? a.k.shape_string() : "undefined");
  const int64_t kv_heads = a.k.dim(1);
  check_common(a.q, kv_heads, a.kv_head_begin, a.pattern, a.scale);
  const int64_t rows = a.q.dim(0), heads = a.q.dim(1), dim = a.q.dim(2);
  const DType dtype = a.q.dtype();
  check_tensor("k", a.k, dtype, {rows, kv_heads, dim});
  check_tensor("v", a.v, dtype, {rows, kv_heads, dim});
  check_tensor("dk", a.dk, dtype, {rows, kv_heads, dim});
  check_tensor("dv", a.dv, dtype, {rows, kv_heads, dim});
  check_tensor("dq", a.dq, dtype, {rows, heads, dim});
  check_tensor("out", a.out, dtype, {rows, heads, dim});
  check_tensor("dout", a.dout, dtype, {rows, heads, dim});
  check_tensor("lse", a.lse, DType::kF32, {heads, rows});
  for (const DocumentRange& d : a.documents) {
    require(d.row_begin >= 0 && d.row_count >= 0 && d.row_begin <= rows - d.row_count,
            "cpu attention: a document has rows {} + {} of {}", d.row_begin, d.row_count, rows);
  }
  check_workspace(a.workspace, workspace_bytes);
}

void cpu_kv_write(const KvView& kv, DType kv_dtype, int64_t block_size, int64_t first_position,
                  const Tensor& k, const Tensor& v, CpuContext& context) {
  require(k.defined() && k.rank() == 3, "cpu kv_write: k is {}, expected [n, kv_heads, head_dim]",
          k.defined() ? k.shape_string() : "undefined");
  check_tensor("k of kv_write", k, kv_dtype, {k.dim(0), k.dim(1), k.dim(2)});
  check_tensor("v of kv_write", v, kv_dtype, {k.dim(0), k.dim(1), k.dim(2)});
  require(first_position >= 0 && block_size > 0, "cpu kv_write: position {}, block size {}",
          first_position, block_size);
  const int64_t n = k.dim(0), size = dtype_size(kv_dtype);
  const auto row_bytes = static_cast<size_t>(k.dim(2) * size);
  for (int64_t block = first_position / block_size; block * block_size < first_position + n;
       ++block) {
    require(
        kv.block_table == nullptr || (block < kv.block_table_size && kv.block_table[block] >= 0),
        "cpu kv_write: block {} has no page in a table of {}", block, kv.block_table_size);
  }
  context.pool.for_ranges(n, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t position = first_position + i, block = position / block_size;
      const int64_t page = kv.block_table == nullptr ? block : kv.block_table[block];
      for (int64_t h = 0; h < k.dim(1); ++h) {
        const int64_t at =
            page * kv.page_stride + h * kv.head_stride + position % block_size * kv.token_stride;
        const auto copy = [&](void* pages, const Tensor& x) {
          std::memcpy(
              static_cast<std::byte*>(pages) + at * size,
              static_cast<const std::byte*>(x.raw()) + (i * x.stride(0) + h * x.stride(1)) * size,
              row_bytes);
        };
        copy(kv.keys, k);
        copy(kv.values, v);
      }
    }
  });
}

}  // namespace longgen
