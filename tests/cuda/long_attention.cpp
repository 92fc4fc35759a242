#include "tests/cuda/long_attention.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "longgen/base/thread_pool.h"
#include "tests/cuda/device_values.h"

namespace longgen::testing {
namespace {

enum Stream : uint64_t { kQueries = 1, kKeys, kValues, kGradients };

int64_t workspace_bytes(const Backend& backend, const LongCase& c) {
  const AttentionShape shape{c.rows, c.q_heads, c.kv_heads, c.head_dim, DType::kBF16};
  return std::max({backend.attention_forward_workspace_bytes(shape),
                   backend.attention_backward_workspace_bytes(shape), int64_t{64}});
}

int64_t capacity(const Backend& backend, const LongCase& c) {
  const int64_t rows = 2 * c.rows * c.head_dim * 4 * (c.q_heads + c.kv_heads);
  return rows + 4 * c.rows * c.q_heads + workspace_bytes(backend, c) + (1 << 16);
}

// All processors for references of some 10^9 operations; one where waking the others takes longer.
ThreadPool& threads(int64_t rows) {
  static ThreadPool all(ThreadPool::hardware_threads()), one(1);
  return rows < 8192 ? one : all;
}

// In four sums, so that none waits for the one before; n is a multiple of 4.
double dot(const float* a, const float* b, int64_t n) {
  double sums[4] = {};
  for (int64_t i = 0; i < n; i += 4) {
    for (int64_t u = 0; u < 4; ++u) {
      sums[u] += static_cast<double>(a[i + u]) * static_cast<double>(b[i + u]);
    }
  }
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

double dot(const std::vector<double>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < b.size(); ++i) sum += a[i] * static_cast<double>(b[i]);
  return sum;
}

void add(std::vector<double>& to, double factor, const float* x) {
  for (size_t i = 0; i < to.size(); ++i) to[i] += factor * static_cast<double>(x[i]);
}

double rounded(double x) { return static_cast<double>(bf16(static_cast<float>(x))); }

void append_rounded(std::vector<double>& to, const std::vector<double>& row) {
  for (const double x : row) to.push_back(rounded(x));
}

}  // namespace

std::string LongCase::to_string() const {
  return fmt::format("{}:{} x {}, {} rows, {}", q_heads, kv_heads, head_dim, rows,
                     pattern.to_string());
}

LongAttention::LongAttention(Backend& backend, const LongCase& c)
    : c_(c), backend_(backend), arena_("long attention", backend.memory(), capacity(backend, c)) {
  const auto new_tensor = [&](const char* name, int64_t heads) {
    return arena_.allocate(name, DType::kBF16, {c.rows, heads, c.head_dim});
  };
  const auto random = [&](const char* name, Stream stream, int64_t heads) {
    const Tensor x = new_tensor(name, heads);
    device_values(stream, x.numel(), x.raw());
    return x;
  };
  q_ = random("q", kQueries, c.q_heads);
  k_ = random("k", kKeys, c.kv_heads);
  v_ = random("v", kValues, c.kv_heads);
  dout_ = random("dout", kGradients, c.q_heads);
  out_ = new_tensor("out", c.q_heads);
  lse_ = arena_.allocate("lse", DType::kF32, {c.q_heads, c.rows});
  dq_ = new_tensor("dq", c.q_heads);
  dk_ = new_tensor("dk", c.kv_heads);
  dv_ = new_tensor("dv", c.kv_heads);
  workspace_ = arena_.allocate("workspace", DType::kU8, {workspace_bytes(backend, c)});
}

void LongAttention::poison() {
  for (const Tensor& x : {out_, lse_, dq_, dk_, dv_, workspace_}) poison_device(x.raw(), x.bytes());
}

double LongAttention::scale() const { return 1 / std::sqrt(static_cast<double>(c_.head_dim)); }

void LongAttention::run() {
  const AttentionSequence sequence{.row_begin = 0,
                                   .row_count = c_.rows,
                                   .kv = {.keys = k_.raw(),
                                          .values = v_.raw(),
                                          .page_stride = c_.pattern.block_size * k_.stride(0),
                                          .head_stride = k_.stride(1),
                                          .token_stride = k_.stride(0),
                                          .length = c_.rows}};
  const std::span<std::byte> workspace(static_cast<std::byte*>(workspace_.raw()),
                                       static_cast<size_t>(workspace_.bytes()));
  backend_.attention_forward({.out = out_,
                              .lse = lse_,
                              .q = q_,
                              .sequences = {&sequence, 1},
                              .kv_dtype = DType::kBF16,
                              .kv_heads = c_.kv_heads,
                              .pattern = &c_.pattern,
                              .scale = scale(),
                              .workspace = workspace});
  const DocumentRange whole{0, c_.rows};
  backend_.attention_backward({.dq = dq_,
                               .dk = dk_,
                               .dv = dv_,
                               .dout = dout_,
                               .out = out_,
                               .q = q_,
                               .k = k_,
                               .v = v_,
                               .lse = lse_,
                               .documents = {&whole, 1},
                               .pattern = &c_.pattern,
                               .scale = scale(),
                               .workspace = workspace});
}

void LongAttention::remember() {
  if (memory_ == nullptr) {
    memory_ = std::make_unique<Arena>("remembered", backend_.memory(), capacity(backend_, c_));
    for (const Tensor& x : {out_, lse_, dq_, dk_, dv_}) {
      remembered_.push_back(memory_->allocate("remembered", x.dtype(), x.shape()));
    }
  }
  size_t i = 0;
  for (const Tensor& x : {out_, lse_, dq_, dk_, dv_}) backend_.copy(remembered_[i++], x);
}

int64_t LongAttention::differing_words() const {
  int64_t count = 0;
  size_t i = 0;
  for (const Tensor& x : {out_, lse_, dq_, dk_, dv_}) {
    count += testing::differing_words(x.raw(), remembered_[i++].raw(), x.bytes());
  }
  return count;
}

std::vector<float> LongAttention::host_row(uint64_t stream, int64_t heads, int64_t row,
                                           int64_t head) const {
  std::vector<float> values(static_cast<size_t>(c_.head_dim));
  host_values(stream, (row * heads + head) * c_.head_dim, c_.head_dim, values.data());
  return values;
}

std::vector<float> LongAttention::host_head(uint64_t stream, int64_t kv_head) const {
  std::vector<float> values(static_cast<size_t>(c_.rows * c_.head_dim));
  threads(c_.rows).for_ranges(c_.rows, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      host_values(stream, (row * c_.kv_heads + kv_head) * c_.head_dim, c_.head_dim,
                  &values[static_cast<size_t>(row * c_.head_dim)]);
    }
  });
  return values;
}

std::vector<double> LongAttention::device_row(const Tensor& x, int64_t row, int64_t head) const {
  std::vector<bf16> bits(static_cast<size_t>(c_.head_dim));
  auto* const at = static_cast<bf16*>(x.raw()) + row * x.stride(0) + head * x.stride(1);
  backend_.copy(Tensor(bits.data(), DType::kBF16, {c_.head_dim}),
                Tensor(at, DType::kBF16, {c_.head_dim}, Device::kCuda));
  std::vector<double> values;
  for (const bf16 b : bits) values.push_back(static_cast<double>(b));
  return values;
}

std::vector<float> LongAttention::device_lse(int64_t head) const {
  std::vector<float> lse(static_cast<size_t>(c_.rows));
  backend_.copy(Tensor(lse.data(), DType::kF32, {c_.rows}),
                lse_.slice(0, head, 1).reshape({c_.rows}));
  return lse;
}

// Relative L2 over all rows and of the worst one. With scores of deviation 1 the sums are of terms
// of like size and random sign, so a share f of them that is lost moves a result by sqrt(f) of
// itself: one block of 64 keys of 131,072 by 2 %, five times the error of bf16.
void LongAttention::expect_near(const char* name, const Rows& rows) {
  const auto apart = [&](const std::vector<double>& x) {
    const auto dim = static_cast<size_t>(c_.head_dim);
    double error = 0, size = 0, worst = 0;
    for (size_t begin = 0; begin < rows.truth.size(); begin += dim) {
      double row_error = 0, row_size = 0;
      for (size_t i = begin; i < begin + dim; ++i) {
        row_error += (x[i] - rows.truth[i]) * (x[i] - rows.truth[i]);
        row_size += rows.truth[i] * rows.truth[i];
      }
      error += row_error;
      size += row_size;
      // A row of one key has gradients of 0 (dq, dk): measured against the numbers' own size, 1.
      const double one = std::sqrt(row_error / std::max(row_size, 1e-4 * c_.head_dim));
      if (!(one <= worst)) worst = one;
    }
    return std::pair(std::sqrt(error / std::max(size, 1e-4 * c_.head_dim)), worst);
  };
  const auto [all, worst] = apart(rows.got);
  const auto [plain_all, plain_worst] = apart(rows.plain);
  // Half a unit of bf16 is granted: a plain result may be exact by chance.
  EXPECT_LE(all, 2 * plain_all + 0.002) << name;
  EXPECT_LE(worst, 2 * plain_worst + 0.002) << name;
  apart_.all = std::max(apart_.all, all);
  apart_.worst = std::max(apart_.worst, worst);
  apart_.of_plain = std::max(apart_.of_plain, all / (plain_all + 1e-4));
}

// A query's out and dq, in f64 and as a plain bf16 implementation has them, and its log-sum-exp.
LongAttention::QueryTruth LongAttention::solve_query(int64_t head, int64_t query,
                                                     const std::vector<float>& keys,
                                                     const std::vector<float>& values) const {
  const int64_t dim = c_.head_dim, kv_head = head / group();
  const std::vector<float> q = host_row(kQueries, c_.q_heads, query, head);
  const std::vector<float> dout = host_row(kGradients, c_.q_heads, query, head);
  std::vector<int64_t> seen;
  for (int64_t block = 0; block * 64 <= query; ++block) {
    if (!c_.pattern.sees_block(query / 64, block, kv_head)) continue;
    for (int64_t j = block * 64; j <= std::min(query, block * 64 + 63); ++j) seen.push_back(j);
  }
  const size_t n = seen.size(), size = static_cast<size_t>(dim);
  std::vector<double> s(n), dp(n);
  double top = -INFINITY, plain_top = -INFINITY, sum = 0, plain_sum = 0;
  for (size_t i = 0; i < n; ++i) {
    s[i] = scale() * dot(q.data(), &keys[static_cast<size_t>(seen[i] * dim)], dim);
    dp[i] = dot(dout.data(), &values[static_cast<size_t>(seen[i] * dim)], dim);
    top = std::max(top, s[i]);
    plain_top = std::max(plain_top, rounded(s[i]));
  }
  for (const double x : s) {
    sum += std::exp(x - top);
    plain_sum += std::exp(rounded(x) - plain_top);
  }
  QueryTruth t;
  t.lse = top + std::log(sum);
  t.out.resize(size);
  t.dq.resize(size);
  std::vector<double> plain_o(size), plain_d(size);
  const auto p = [&](size_t i) { return std::exp(s[i] - top) / sum; };
  const auto plain_p = [&](size_t i) {
    return rounded(std::exp(rounded(s[i]) - plain_top) / plain_sum);
  };
  for (size_t i = 0; i < n; ++i) {
    add(t.out, p(i), &values[static_cast<size_t>(seen[i] * dim)]);
    add(plain_o, plain_p(i), &values[static_cast<size_t>(seen[i] * dim)]);
  }
  append_rounded(t.plain_out, plain_o);
  const double delta = dot(t.out, dout), plain_delta = dot(t.plain_out, dout);
  for (size_t i = 0; i < n; ++i) {
    const float* key = &keys[static_cast<size_t>(seen[i] * dim)];
    add(t.dq, scale() * p(i) * (dp[i] - delta), key);
    add(plain_d, scale() * rounded(plain_p(i) * (rounded(dp[i]) - plain_delta)), key);
  }
  append_rounded(t.plain_dq, plain_d);
  return t;
}

void LongAttention::expect_rows(int64_t head, const std::vector<int64_t>& queries) {
  const int64_t kv_head = head / group();
  const std::vector<float> keys = host_head(kKeys, kv_head), values = host_head(kValues, kv_head);
  const std::vector<float> lse = device_lse(head);
  std::vector<QueryTruth> truths(queries.size());
  threads(c_.rows).for_each(static_cast<int64_t>(queries.size()), [&](int64_t i, int) {
    const auto at = static_cast<size_t>(i);
    truths[at] = solve_query(head, queries[at], keys, values);
  });
  Rows out, dq;
  const auto append = [](std::vector<double>& to, const std::vector<double>& row) {
    to.insert(to.end(), row.begin(), row.end());
  };
  for (size_t i = 0; i < queries.size(); ++i) {
    const int64_t query = queries[i];
    const QueryTruth& t = truths[i];
    // f32 sums of 131,072 terms err by some 1e-5; a lost block of them would cost 5e-4.
    EXPECT_NEAR(static_cast<double>(lse[static_cast<size_t>(query)]), t.lse, 1e-4)
        << "query " << query;
    append(out.truth, t.out);
    append(out.plain, t.plain_out);
    append(out.got, device_row(out_, query, head));
    append(dq.truth, t.dq);
    append(dq.plain, t.plain_dq);
    append(dq.got, device_row(dq_, query, head));
  }
  expect_near("out", out);
  expect_near("dq", dq);
}

void LongAttention::ColumnSums::add(const ColumnSums& other) {
  const auto add_all = [](auto& to, const auto& x) {
    for (size_t n = 0; n < to.size(); ++n) {
      for (size_t i = 0; i < to[n].size(); ++i) to[n][i] += x[n][i];
    }
  };
  add_all(dk, other.dk);
  add_all(dv, other.dv);
  add_all(plain_dk, other.plain_dk);
  add_all(plain_dv, other.plain_dv);
}

// What a query adds to the gradients of the keys that it sees.
void LongAttention::add_query(ColumnSums& sums, const std::vector<KeyColumn>& keys, int64_t query,
                              int64_t head, const bf16* out, double lse) const {
  const int64_t dim = c_.head_dim;
  std::vector<float> q, dout;
  double delta = 0;
  for (size_t n = 0; n < keys.size(); ++n) {
    const KeyColumn& key = keys[n];
    if (key.position > query ||
        !c_.pattern.sees_block(query / 64, key.position / 64, head / group())) {
      continue;
    }
    if (q.empty()) {
      q = host_row(kQueries, c_.q_heads, query, head);
      dout = host_row(kGradients, c_.q_heads, query, head);
      for (int64_t i = 0; i < dim; ++i) {
        delta += static_cast<double>(out[i]) * static_cast<double>(dout[static_cast<size_t>(i)]);
      }
    }
    const double s = scale() * dot(q.data(), key.k.data(), dim);
    const double dp = dot(dout.data(), key.v.data(), dim);
    const double p = std::exp(s - lse), plain_p = rounded(std::exp(rounded(s) - lse));
    add(sums.dv[n], p, dout.data());
    add(sums.plain_dv[n], plain_p, dout.data());
    add(sums.dk[n], scale() * p * (dp - delta), q.data());
    add(sums.plain_dk[n], scale() * rounded(plain_p * (rounded(dp) - delta)), q.data());
  }
}

// Probabilities and the row sums of dout * out come from the device's own lse and out, whose rows
// expect_rows holds against f64: forming them here would take the square of the length.
void LongAttention::expect_columns(int64_t kv_head, const std::vector<int64_t>& keys) {
  constexpr int64_t kPiece = 8192;  // queries whose out is here at a time
  const int64_t dim = c_.head_dim, width = c_.q_heads * dim;
  const int64_t first_head = kv_head * group();
  std::vector<KeyColumn> columns;
  for (const int64_t key : keys) {
    columns.push_back({key, host_row(kKeys, c_.kv_heads, key, kv_head),
                       host_row(kValues, c_.kv_heads, key, kv_head)});
  }
  std::vector<std::vector<float>> lse;
  for (int64_t g = 0; g < group(); ++g) lse.push_back(device_lse(first_head + g));
  const ColumnSums zeros(keys.size(), static_cast<size_t>(dim));
  std::vector<ColumnSums> sums(static_cast<size_t>(threads(c_.rows).size()), zeros);
  std::vector<bf16> outs(static_cast<size_t>(std::min(kPiece, c_.rows) * width));
  for (int64_t first = 0; first < c_.rows; first += kPiece) {
    const int64_t count = std::min(kPiece, c_.rows - first);
    backend_.copy(Tensor(outs.data(), DType::kBF16, {count * width}),
                  out_.slice(0, first, count).reshape({count * width}));
    threads(c_.rows).for_ranges(count * group(), [&](int64_t begin, int64_t end, int thread) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t row = i / group(), g = i % group(), query = first + row;
        add_query(sums[static_cast<size_t>(thread)], columns, query, first_head + g,
                  &outs[static_cast<size_t>(row * width + (first_head + g) * dim)],
                  static_cast<double>(lse[static_cast<size_t>(g)][static_cast<size_t>(query)]));
      }
    });
  }
  for (size_t i = 1; i < sums.size(); ++i) sums[0].add(sums[i]);
  const auto compare = [&](const char* name, const Tensor& x, const auto& truth,
                           const auto& plain) {
    Rows rows;
    for (size_t n = 0; n < keys.size(); ++n) {
      const auto got = device_row(x, keys[n], kv_head);
      rows.got.insert(rows.got.end(), got.begin(), got.end());
      rows.truth.insert(rows.truth.end(), truth[n].begin(), truth[n].end());
      append_rounded(rows.plain, plain[n]);
    }
    expect_near(name, rows);
  };
  compare("dk", dk_, sums[0].dk, sums[0].plain_dk);
  compare("dv", dv_, sums[0].dv, sums[0].plain_dv);
}

}  // namespace longgen::testing
