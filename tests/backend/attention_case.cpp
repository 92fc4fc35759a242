#include "tests/backend/attention_case.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numbers>
#include <optional>

#include "longgen/base/rng.h"

namespace longgen::testing {
namespace {

double to_dtype(double x, DType dtype) {
  if (dtype == DType::kBF16) return static_cast<double>(bf16(static_cast<float>(x)));
  return dtype == DType::kF32 ? static_cast<double>(static_cast<float>(x)) : x;
}

// Normal, two of a block of the generator (Box-Muller).
std::vector<double> random_values(int64_t count, double gain, DType dtype, uint64_t seed,
                                  uint64_t stream) {
  std::vector<double> x(static_cast<size_t>(count));
  for (size_t i = 0; i < x.size(); i += 2) {
    const auto words = philox(seed, stream, i / 2);
    const auto uniform = [&](size_t w) { return (words[w] + 0.5) * 0x1p-32; };
    const double radius = gain * std::sqrt(-2 * std::log(uniform(0)));
    const double angle = 2 * std::numbers::pi * uniform(1);
    x[i] = to_dtype(radius * std::cos(angle), dtype);
    if (i + 1 < x.size()) x[i + 1] = to_dtype(radius * std::sin(angle), dtype);
  }
  return x;
}

// In four sums, so that none waits for the one before.
double dot(const double* a, const double* b, int64_t n) {
  double sums[4] = {};
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    for (int64_t u = 0; u < 4; ++u) sums[u] += a[i + u] * b[i + u];
  }
  for (; i < n; ++i) sums[0] += a[i] * b[i];
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

Tensor view(const std::vector<double>& x, std::initializer_list<int64_t> shape) {
  return Tensor(const_cast<double*>(x.data()), DType::kF64, shape);
}

// Norms count as at least this a number: gradients may cancel to nothing (a query that sees one
// key), and then rounding errors have nothing to be relative to.
constexpr double kLeastRms = 0.1;

void expect_rows_may_begin(const AttentionShapeCase& c, int64_t from, bool backward) {
  EXPECT_TRUE(from == 0 || (c.documents.empty() && !backward)) << "rows from " << from << " on";
}

double bf16_rounded(double x) { return to_dtype(x, DType::kBF16); }

}  // namespace

std::string AttentionShapeCase::to_string() const {
  return fmt::format("{} rows {} heads {}:{} dim {} {} (block {}) documents {}", dtype_name(dtype),
                     rows, q_heads, kv_heads, head_dim, pattern.to_string(), pattern.block_size,
                     documents.size());
}

std::vector<std::byte> poisoned(int64_t bytes) {
  return std::vector<std::byte>(static_cast<size_t>(bytes) + 64, std::byte{0xff});
}

std::span<std::byte> aligned_span(std::vector<std::byte>& storage, int64_t bytes) {
  const auto at = reinterpret_cast<uintptr_t>(storage.data());
  return std::span(storage).subspan((64 - at % 64) % 64, static_cast<size_t>(bytes));
}

// The gaps are the tails of wider dimensions that are sliced away.
Host::Host(DType dtype, std::vector<int64_t> shape, int64_t head_gap, int64_t row_gap) {
  std::vector<int64_t> wide = shape;
  wide[2] += head_gap;
  wide[1] += row_gap;
  bytes_.assign(static_cast<size_t>(wide[0] * wide[1] * wide[2] * dtype_size(dtype)),
                std::byte{0xff});
  tensor_ = Tensor(bytes_.data(), dtype, std::span<const int64_t>(wide))
                .slice(1, 0, shape[1])
                .slice(2, 0, shape[2]);
}

void Host::fill(const std::vector<double>& values) {
  size_t i = 0;
  for (int64_t r = 0; r < tensor_.dim(0); ++r) {
    for (int64_t h = 0; h < tensor_.dim(1); ++h) {
      for (int64_t d = 0; d < tensor_.dim(2); ++d, ++i) {
        const int64_t at = r * tensor_.stride(0) + h * tensor_.stride(1) + d;
        const auto x = static_cast<float>(values[i]);
        if (tensor_.dtype() == DType::kBF16) {
          static_cast<bf16*>(tensor_.raw())[at] = bf16(x);
        } else {
          static_cast<float*>(tensor_.raw())[at] = x;
        }
      }
    }
  }
}

std::vector<double> Host::values() const {
  std::vector<double> out;
  for (int64_t r = 0; r < tensor_.dim(0); ++r) {
    for (int64_t h = 0; h < tensor_.dim(1); ++h) {
      for (int64_t d = 0; d < tensor_.dim(2); ++d) {
        const int64_t at = r * tensor_.stride(0) + h * tensor_.stride(1) + d;
        out.push_back(tensor_.dtype() == DType::kBF16
                          ? static_cast<double>(static_cast<const bf16*>(tensor_.raw())[at])
                          : static_cast<double>(static_cast<const float*>(tensor_.raw())[at]));
      }
    }
  }
  return out;
}

bool Host::gaps_untouched() const {
  std::vector<std::byte> copy = bytes_;
  const int64_t size = dtype_size(tensor_.dtype());
  for (int64_t r = 0; r < tensor_.dim(0); ++r) {
    for (int64_t h = 0; h < tensor_.dim(1); ++h) {
      std::memset(copy.data() + (r * tensor_.stride(0) + h * tensor_.stride(1)) * size, 0xff,
                  static_cast<size_t>(tensor_.dim(2) * size));
    }
  }
  for (const std::byte b : copy) {
    if (b != std::byte{0xff}) return false;
  }
  return true;
}

AttentionProblem::AttentionProblem(AttentionShapeCase shape, uint64_t seed) : c(std::move(shape)) {
  scale = 1 / std::sqrt(static_cast<double>(c.head_dim));
  documents = c.documents;
  if (documents.empty()) documents.push_back({0, c.rows});
  const auto random = [&](int64_t heads, double gain, uint64_t which) {
    return random_values(c.rows * heads * c.head_dim, gain, c.dtype, seed,
                         4 * static_cast<uint64_t>(c.rows) + which);
  };
  q = random(c.q_heads, c.gain, 0);
  k = random(c.kv_heads, 1, 1);
  v = random(c.kv_heads, 1, 2);
  dout = random(c.q_heads, 1, 3);
}

AttentionResult AttentionProblem::truth(bool backward, int64_t from) const {
  expect_rows_may_begin(c, from, backward);
  const auto reference = make_reference_backend();
  const int64_t t = c.rows, heads = c.q_heads, kv = c.kv_heads, dim = c.head_dim;
  AttentionResult r{.out = std::vector<double>(q.size(), 0),
                    .lse = std::vector<double>(static_cast<size_t>(t * heads), 0)};
  std::vector<AttentionSequence> sequences;
  for (const DocumentRange& d : documents) {
    AttentionSequence s{
        .row_begin = d.row_begin + from, .row_count = d.row_count - from, .first_position = from};
    s.kv.keys = const_cast<double*>(k.data()) + d.row_begin * kv * dim;
    s.kv.values = const_cast<double*>(v.data()) + d.row_begin * kv * dim;
    s.kv.token_stride = kv * dim;
    s.kv.head_stride = dim;
    s.kv.page_stride = c.pattern.block_size * kv * dim;
    s.kv.length = d.row_count;
    sequences.push_back(s);
  }
  AttentionForward f{.out = view(r.out, {t, heads, dim}),
                     .lse = view(r.lse, {heads, t}),
                     .q = view(q, {t, heads, dim}),
                     .sequences = sequences,
                     .kv_dtype = DType::kF64,
                     .kv_heads = kv,
                     .kv_head_begin = c.kv_head_begin,
                     .pattern = &c.pattern,
                     .scale = scale};
  const AttentionShape shape{t, heads, kv, dim, DType::kF64};
  std::vector<std::byte> work(
      static_cast<size_t>(reference->attention_forward_workspace_bytes(shape)));
  f.workspace = work;
  reference->attention_forward(f);
  if (!backward) return r;
  r.dq.resize(q.size());
  r.dk.resize(k.size());
  r.dv.resize(v.size());
  AttentionBackward b{.dq = view(r.dq, {t, heads, dim}),
                      .dk = view(r.dk, {t, kv, dim}),
                      .dv = view(r.dv, {t, kv, dim}),
                      .dout = view(dout, {t, heads, dim}),
                      .out = f.out,
                      .q = f.q,
                      .k = view(k, {t, kv, dim}),
                      .v = view(v, {t, kv, dim}),
                      .lse = f.lse,
                      .documents = documents,
                      .kv_head_begin = c.kv_head_begin,
                      .pattern = &c.pattern,
                      .scale = scale};
  work.resize(static_cast<size_t>(reference->attention_backward_workspace_bytes(shape)));
  b.workspace = work;
  reference->attention_backward(b);
  return r;
}

AttentionResult AttentionProblem::plain_bf16(bool backward, int64_t from) const {
  expect_rows_may_begin(c, from, backward);
  const int64_t heads = c.q_heads, group = heads / c.kv_heads, dim = c.head_dim;
  AttentionResult r{.out = std::vector<double>(q.size(), 0)};
  if (backward) {
    r.dq.resize(q.size());
    r.dk.resize(k.size());
    r.dv.resize(v.size());
  }
  for (const DocumentRange& doc : documents) {
    for (int64_t i = from * heads; i < doc.row_count * heads; ++i) {
      const int64_t h = i % heads, kv_head = h / group, position = i / heads;
      const int64_t at = ((doc.row_begin + position) * heads + h) * dim;
      std::vector<int64_t> keys;
      std::vector<double> p;
      double top = -INFINITY, sum = 0;
      const auto key_at = [&](int64_t n) {
        return ((doc.row_begin + n) * c.kv_heads + kv_head) * dim;
      };
      for (int64_t n = 0; n <= position; ++n) {
        if (!c.pattern.sees(position, n, c.kv_head_begin + kv_head)) continue;
        keys.push_back(n);
        p.push_back(bf16_rounded(
            dot(&q[static_cast<size_t>(at)], &k[static_cast<size_t>(key_at(n))], dim) * scale));
        top = std::max(top, p.back());
      }
      for (double& x : p) sum += x = std::exp(x - top);
      for (double& x : p) x = bf16_rounded(x / sum);
      double* out = &r.out[static_cast<size_t>(at)];
      for (size_t j = 0; j < keys.size(); ++j) {
        const double* value = &v[static_cast<size_t>(key_at(keys[j]))];
        for (int64_t d = 0; d < dim; ++d) out[d] += p[j] * value[d];
      }
      for (int64_t d = 0; d < dim; ++d) out[d] = bf16_rounded(out[d]);
      if (!backward) continue;
      const double *query = &q[static_cast<size_t>(at)], *gradient = &dout[static_cast<size_t>(at)];
      double* dq = &r.dq[static_cast<size_t>(at)];
      const double delta = dot(out, gradient, dim);
      for (size_t j = 0; j < keys.size(); ++j) {
        const auto key = static_cast<size_t>(key_at(keys[j]));
        const double ds = bf16_rounded(p[j] * (bf16_rounded(dot(gradient, &v[key], dim)) - delta));
        double *dk = &r.dk[key], *dv = &r.dv[key];
        for (int64_t d = 0; d < dim; ++d) {
          dq[d] += ds * k[key + static_cast<size_t>(d)] * scale;
          dk[d] += ds * query[d] * scale;
          dv[d] += p[j] * gradient[d];
        }
      }
    }
  }
  for (auto* x : {&r.dq, &r.dk, &r.dv}) {
    for (double& value : *x) value = bf16_rounded(value);
  }
  return r;
}

std::string Distance::to_string() const {
  return fmt::format("all {:.3g} row {:.3g} block {:.3g}", all, row, block);
}

Distance distance(const std::vector<double>& got, const std::vector<double>& want, int64_t heads,
                  int64_t head_dim) {
  EXPECT_EQ(got.size(), want.size());
  const int64_t rows = static_cast<int64_t>(want.size()) / head_dim;  // of one head each
  std::vector<double> error(static_cast<size_t>(rows)), norm(static_cast<size_t>(rows));
  double all_error = 0, all_norm = 0;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t d = 0; d < head_dim; ++d) {
      const auto i = static_cast<size_t>(r * head_dim + d);
      error[static_cast<size_t>(r)] += (got[i] - want[i]) * (got[i] - want[i]);
      norm[static_cast<size_t>(r)] += want[i] * want[i];
    }
    all_error += error[static_cast<size_t>(r)];
    all_norm += norm[static_cast<size_t>(r)];
  }
  const double least = kLeastRms * kLeastRms * static_cast<double>(head_dim);
  const double floor = std::max(0.01 * all_norm / static_cast<double>(rows), least);
  Distance result{.all =
                      std::sqrt(all_error / std::max(all_norm, least * static_cast<double>(rows)))};
  const int64_t tokens = rows / heads;
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t first = 0; first < tokens; first += 16) {
      double block_error = 0, block_norm = 0;
      const int64_t last = std::min(first + 16, tokens);
      for (int64_t t = first; t < last; ++t) {
        const auto r = static_cast<size_t>(t * heads + h);
        const double row = std::sqrt(error[r] / std::max(norm[r], floor));
        if (!(row <= result.row)) result.row = row;  // NaN too
        block_error += error[r];
        block_norm += norm[r];
      }
      const double count = static_cast<double>(last - first);
      const double block = std::sqrt(block_error / std::max(block_norm, floor * count));
      if (!(block <= result.block)) result.block = block;
    }
  }
  return result;
}

void expect_near(const std::string& name, const std::vector<double>& got,
                 const std::vector<double>& want, const std::vector<double>& plain, DType dtype,
                 int64_t heads, int64_t head_dim) {
  const Distance d = distance(got, want, heads, head_dim);
  if (dtype == DType::kF32) {
    // Sums of a few hundred f32 products have errors of some 1e-7, and a probability errs by its
    // score (at most some 30 here) times 6e-8. One lost key of a thousand would change a row by
    // 3e-2.
    EXPECT_LE(d.all, 5e-6) << name << ": " << d.to_string();
    EXPECT_LE(d.row, 2e-5) << name << ": " << d.to_string();
    EXPECT_LE(d.block, 1e-5) << name << ": " << d.to_string();
    return;
  }
  const Distance p = distance(plain, want, heads, head_dim);
  // An output may be exact in one of the two by chance (a single key): half a unit of bf16, 2^-9,
  // is always granted.
  const double granted = 0.002;
  const std::string both = name + ": " + d.to_string() + ", plain bf16 " + p.to_string();
  EXPECT_LE(d.all, 2 * p.all + granted) << both;
  EXPECT_LE(d.row, 2 * p.row + granted) << both;
  EXPECT_LE(d.block, 2 * p.block + granted) << both;
}

std::vector<SolvedProblem> solve(const std::vector<AttentionShapeCase>& cases, bool backward,
                                 const std::vector<int64_t>& from) {
  std::vector<std::optional<SolvedProblem>> solved(cases.size());
  ThreadPool pool(ThreadPool::hardware_threads());
  pool.for_each(static_cast<int64_t>(cases.size()), [&](int64_t i, int) {
    const auto at = static_cast<size_t>(i);
    solved[at].emplace(AttentionProblem(cases[at]), backward, from.empty() ? 0 : from[at]);
  });
  std::vector<SolvedProblem> out;
  for (auto& one : solved) out.push_back(std::move(*one));
  return out;
}

std::vector<SolvedProblem> solve_in_both_dtypes(const std::vector<AttentionShapeCase>& shapes,
                                                bool backward) {
  std::vector<AttentionShapeCase> cases;
  for (AttentionShapeCase c : shapes) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      c.dtype = dtype;
      cases.push_back(c);
    }
  }
  return solve(cases, backward);
}

}  // namespace longgen::testing
