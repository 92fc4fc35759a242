#include "longgen/backend/reference/attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "longgen/backend/reference/rows.h"

namespace longgen::reference {
namespace {

// Element offset of (head, position) in the pages of `kv`.
int64_t kv_offset(const KvView& kv, int64_t block_size, int64_t head, int64_t position) {
  const int64_t block = position / block_size;
  int64_t page = block;
  if (kv.block_table != nullptr) {
    require(block < kv.block_table_size,
            "reference attention: block {} is outside the block table of {}", block,
            kv.block_table_size);
    page = kv.block_table[block];
    require(page >= 0, "reference attention: block {} has been released, but a query sees it",
            block);
  }
  return page * kv.page_stride + head * kv.head_stride + position % block_size * kv.token_stride;
}

double dot(const double* a, const double* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// The positions that the query at `position` sees, ascending.
void visible_positions(const AttentionPattern& pattern, int64_t position, int64_t kv_head,
                       std::vector<int64_t>& out) {
  out.clear();
  const int64_t size = pattern.block_size, query_block = position / size;
  for (int64_t block = 0; block <= query_block; ++block) {
    if (!pattern.sees_block(query_block, block, kv_head)) continue;
    const int64_t end = std::min((block + 1) * size, position + 1);
    for (int64_t p = block * size; p < end; ++p) out.push_back(p);
  }
}

void check_forward(const AttentionForward& a) {
  require(a.pattern != nullptr && a.kv_heads > 0, "reference attention: no pattern or no KV heads");
  require(a.kv_dtype == DType::kF64,
          "reference attention: keys and values are {}, only f64 is done", dtype_name(a.kv_dtype));
  const int64_t rows = a.q.dim(0), heads = a.q.dim(1);
  expect("q", a.q, DType::kF64, {rows, heads, a.q.dim(2)});
  expect("out", a.out, DType::kF64, {rows, heads, a.q.dim(2)});
  if (a.lse.defined()) expect("lse", a.lse, DType::kF64, {heads, rows});
  require(heads % a.kv_heads == 0, "reference attention: {} query heads for {} KV heads", heads,
          a.kv_heads);
  for (const AttentionSequence& s : a.sequences) {
    require(s.row_begin >= 0 && s.row_begin + s.row_count <= rows && s.first_position >= 0 &&
                s.first_position + s.row_count <= s.kv.length,
            "reference attention: rows {} + {} of {} at position {} with {} keys", s.row_begin,
            s.row_count, rows, s.first_position, s.kv.length);
  }
}

}  // namespace

void attention_forward(const AttentionForward& a) {
  check_forward(a);
  const int64_t heads = a.q.dim(1), dim = a.q.dim(2), group = heads / a.kv_heads;
  std::vector<int64_t> positions;
  std::vector<double> weights;
  for (const AttentionSequence& s : a.sequences) {
    const auto* keys = static_cast<const double*>(s.kv.keys);
    const auto* values = static_cast<const double*>(s.kv.values);
    for (int64_t i = 0; i < s.row_count * heads; ++i) {
      const int64_t r = s.row_begin + i / heads, h = i % heads, kv_head = h / group;
      visible_positions(*a.pattern, s.first_position + i / heads, a.kv_head_begin + kv_head,
                        positions);
      const double* q = row(a.q, r * heads + h);
      double max = -INFINITY, sum = 0;
      weights.resize(positions.size());
      for (size_t j = 0; j < positions.size(); ++j) {
        const int64_t at = kv_offset(s.kv, a.pattern->block_size, kv_head, positions[j]);
        weights[j] = a.scale * dot(q, keys + at, dim);
        max = std::max(max, weights[j]);
      }
      for (double& w : weights) sum += w = std::exp(w - max);
      double* out = row(a.out, r * heads + h);
      std::fill(out, out + dim, 0.0);
      for (size_t j = 0; j < positions.size(); ++j) {
        const int64_t at = kv_offset(s.kv, a.pattern->block_size, kv_head, positions[j]);
        for (int64_t c = 0; c < dim; ++c) out[c] += weights[j] * values[at + c];
      }
      for (int64_t c = 0; c < dim; ++c) out[c] /= sum;
      if (a.lse.defined()) row(a.lse, h)[r] = max + std::log(sum);
    }
  }
}

void attention_backward(const AttentionBackward& a) {
  require(a.pattern != nullptr, "reference attention backward: no pattern");
  const int64_t rows = a.q.dim(0), heads = a.q.dim(1), dim = a.q.dim(2), kv_heads = a.k.dim(1);
  require(heads % kv_heads == 0, "reference attention backward: {} query heads for {} KV heads",
          heads, kv_heads);
  for (const Tensor* x : {&a.dq, &a.dout, &a.out, &a.q}) {
    expect("a query-side operand", *x, DType::kF64, {rows, heads, dim});
  }
  for (const Tensor* x : {&a.dk, &a.dv, &a.k, &a.v}) {
    expect("a key-side operand", *x, DType::kF64, {rows, kv_heads, dim});
  }
  expect("lse", a.lse, DType::kF64, {heads, rows});
  for (const Tensor* x : {&a.dq, &a.dk, &a.dv}) {
    for (int64_t i = 0; i < row_count(*x); ++i) std::fill_n(row(*x, i), dim, 0.0);
  }

  // With P = exp(scale q.k - lse), D = dout.out: dv += P dout, dS = P (dout.v - D),
  // dq += scale dS k, dk += scale dS q (Dao et al., arXiv 2205.14135, appendix B).
  const int64_t group = heads / kv_heads;
  std::vector<int64_t> positions;
  for (const DocumentRange& document : a.documents) {
    require(document.row_begin >= 0 && document.row_begin + document.row_count <= rows,
            "reference attention backward: a document's rows {} + {} of {}", document.row_begin,
            document.row_count, rows);
    for (int64_t i = 0; i < document.row_count * heads; ++i) {
      const int64_t h = i % heads, kv_head = h / group, r = document.row_begin + i / heads;
      visible_positions(*a.pattern, i / heads, a.kv_head_begin + kv_head, positions);
      const double *q = row(a.q, r * heads + h), *dout = row(a.dout, r * heads + h);
      double* dq = row(a.dq, r * heads + h);
      const double lse = row(a.lse, h)[r], d = dot(dout, row(a.out, r * heads + h), dim);
      for (const int64_t position : positions) {
        const int64_t at = (document.row_begin + position) * kv_heads + kv_head;
        const double* k = row(a.k, at);
        double *dk = row(a.dk, at), *dv = row(a.dv, at);
        const double p = std::exp(a.scale * dot(q, k, dim) - lse);
        const double ds = a.scale * p * (dot(dout, row(a.v, at), dim) - d);
        for (int64_t c = 0; c < dim; ++c) {
          dv[c] += p * dout[c];
          dq[c] += ds * k[c];
          dk[c] += ds * q[c];
        }
      }
    }
  }
}

void kv_write(const KvView& kv, DType kv_dtype, int64_t block_size, int64_t first_position,
              const Tensor& k, const Tensor& v) {
  require(kv_dtype == DType::kF64, "reference kv_write: pages are {}, only f64 is done",
          dtype_name(kv_dtype));
  expect_like("v", v, k);
  const int64_t heads = k.dim(1), dim = k.dim(2);
  for (int64_t i = 0; i < row_count(k); ++i) {
    const int64_t at = kv_offset(kv, block_size, i % heads, first_position + i / heads);
    std::copy_n(row(k, i), dim, static_cast<double*>(kv.keys) + at);
    std::copy_n(row(v, i), dim, static_cast<double*>(kv.values) + at);
  }
}

}  // namespace longgen::reference
