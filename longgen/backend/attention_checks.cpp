#include "longgen/backend/attention_checks.h"

#include <algorithm>
#include <cmath>

#include "longgen/base/error.h"

namespace longgen {

void AttentionChecks::tensor(const char* name, const Tensor& x, DType dtype,
                             std::initializer_list<int64_t> shape) const {
  // Asked at every call: nothing is formatted unless it is wrong.
  if (x.defined() && x.dtype() == dtype && x.device() == device_ &&
      std::equal(shape.begin(), shape.end(), x.shape().begin(), x.shape().end())) {
    return;
  }
  fail("{} attention: {} is {}, expected {}", backend_, name,
       x.defined() ? x.shape_string() : "undefined", Tensor(nullptr, dtype, shape).shape_string());
}

void AttentionChecks::common(const Tensor& q, int64_t kv_heads, int64_t kv_head_begin,
                             const AttentionPattern* pattern, double scale) const {
  if (!q.defined() || q.rank() != 3) {
    fail("{} attention: q is {}, expected [rows, heads, head_dim]", backend_,
         q.defined() ? q.shape_string() : "undefined");
  }
  require(q.dtype() == DType::kF32 || q.dtype() == DType::kBF16,
          "{} attention: {} is not done on the {} backend; use f32 or bf16", backend_,
          dtype_name(q.dtype()), backend_);
  const int64_t heads = q.dim(1), dim = q.dim(2);
  require(dim > 0 && dim % 16 == 0, "{} attention: head_dim {} is not a multiple of 16", backend_,
          dim);
  require(kv_heads > 0 && heads % kv_heads == 0,
          "{} attention: {} query heads cannot share {} KV heads evenly", backend_, heads,
          kv_heads);
  require(pattern != nullptr, "{} attention: no pattern was given", backend_);
  // The pattern's own check wants the model's number of KV heads; this call may hold a part of
  // them.
  const auto offsets = static_cast<int64_t>(pattern->offsets.size());
  pattern->validate(offsets == 1 ? kv_heads : offsets);
  require(kv_head_begin >= 0 && (offsets == 1 || kv_head_begin + kv_heads <= offsets),
          "{} attention: KV heads [{}, {}) but the pattern has offsets for {}", backend_,
          kv_head_begin, kv_head_begin + kv_heads, offsets);
  require(std::isfinite(scale) && scale > 0, "{} attention: scale {} must be positive", backend_,
          scale);
}

void AttentionChecks::workspace(std::span<std::byte> workspace, int64_t needed) const {
  require(static_cast<int64_t>(workspace.size()) >= needed,
          "{} attention: the workspace has {} bytes, {} are needed", backend_, workspace.size(),
          needed);
  require(reinterpret_cast<uintptr_t>(workspace.data()) % 64 == 0,
          "{} attention: the workspace is not aligned to 64 bytes", backend_);
}

void AttentionChecks::sequence(const AttentionSequence& s, int64_t index, int64_t rows) const {
  require(s.row_begin >= 0 && s.row_count >= 0 && s.row_begin <= rows - s.row_count,
          "{} attention: sequence {} has rows {} + {} of {}", backend_, index, s.row_begin,
          s.row_count, rows);
  if (s.row_count == 0) return;
  require(s.first_position >= 0 && s.first_position + s.row_count <= s.kv.length,
          "{} attention: sequence {} has queries at positions [{}, {}), but keys for {}", backend_,
          index, s.first_position, s.first_position + s.row_count, s.kv.length);
  require(s.kv.keys != nullptr && s.kv.values != nullptr,
          "{} attention: sequence {} has no keys or values", backend_, index);
}

void AttentionChecks::shape(const AttentionShape& shape) const {
  require(shape.kv_heads > 0 && shape.q_heads % shape.kv_heads == 0 && shape.head_dim > 0 &&
              shape.head_dim % 16 == 0,
          "{} attention: {} query heads, {} KV heads, head_dim {}", backend_, shape.q_heads,
          shape.kv_heads, shape.head_dim);
}

void AttentionChecks::forward(const AttentionForward& a, int64_t workspace_bytes) const {
  common(a.q, a.kv_heads, a.kv_head_begin, a.pattern, a.scale);
  const int64_t rows = a.q.dim(0), heads = a.q.dim(1), dim = a.q.dim(2);
  tensor("out", a.out, a.q.dtype(), {rows, heads, dim});
  if (a.lse.defined()) tensor("lse", a.lse, DType::kF32, {heads, rows});
  require(a.kv_dtype == a.q.dtype(),
          "{} attention: keys and values are {}, queries {}; they must agree", backend_,
          dtype_name(a.kv_dtype), dtype_name(a.q.dtype()));
  int64_t index = 0;
  for (const AttentionSequence& s : a.sequences) sequence(s, index++, rows);
  workspace(a.workspace, workspace_bytes);
}

void AttentionChecks::backward(const AttentionBackward& a, int64_t workspace_bytes) const {
  require(a.k.defined() && a.k.rank() == 3,
          "{} attention: k is {}, expected [rows, kv_heads, head_dim]", backend_,
          a.k.defined() ? a.k.shape_string() : "undefined");
  const int64_t kv_heads = a.k.dim(1);
  common(a.q, kv_heads, a.kv_head_begin, a.pattern, a.scale);
  const int64_t rows = a.q.dim(0), heads = a.q.dim(1), dim = a.q.dim(2);
  const DType dtype = a.q.dtype();
  tensor("k", a.k, dtype, {rows, kv_heads, dim});
  tensor("v", a.v, dtype, {rows, kv_heads, dim});
  tensor("dk", a.dk, dtype, {rows, kv_heads, dim});
  tensor("dv", a.dv, dtype, {rows, kv_heads, dim});
  tensor("dq", a.dq, dtype, {rows, heads, dim});
  tensor("out", a.out, dtype, {rows, heads, dim});
  tensor("dout", a.dout, dtype, {rows, heads, dim});
  tensor("lse", a.lse, DType::kF32, {heads, rows});
  for (const DocumentRange& d : a.documents) {
    require(d.row_begin >= 0 && d.row_count >= 0 && d.row_begin <= rows - d.row_count,
            "{} attention: a document has rows {} + {} of {}", backend_, d.row_begin, d.row_count,
            rows);
  }
  workspace(a.workspace, workspace_bytes);
}

void AttentionChecks::kv_write(const KvView& kv, DType kv_dtype, int64_t block_size,
                               int64_t first_position, const Tensor& k, const Tensor& v) const {
  if (!k.defined() || k.rank() != 3) {
    fail("{} kv_write: k is {}, expected [n, kv_heads, head_dim]", backend_,
         k.defined() ? k.shape_string() : "undefined");
  }
  tensor("k of kv_write", k, kv_dtype, {k.dim(0), k.dim(1), k.dim(2)});
  tensor("v of kv_write", v, kv_dtype, {k.dim(0), k.dim(1), k.dim(2)});
  require(first_position >= 0 && block_size > 0, "{} kv_write: position {}, block size {}",
          backend_, first_position, block_size);
  for (int64_t block = first_position / block_size; block * block_size < first_position + k.dim(0);
       ++block) {
    require(
        kv.block_table == nullptr || (block < kv.block_table_size && kv.block_table[block] >= 0),
        "{} kv_write: block {} has no page in a table of {}", backend_, block, kv.block_table_size);
  }
}

}  // namespace longgen
