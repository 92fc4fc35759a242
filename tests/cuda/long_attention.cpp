#include "tests/cuda/long_attention.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

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

double dot(const float* a, const float* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
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
  for (int64_t row = 0; row < c_.rows; ++row) {
    host_values(stream, (row * c_.kv_heads + kv_head) * c_.head_dim, c_.head_dim,
                &values[static_cast<size_t>(row * c_.head_dim)]);
  }
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

void LongAttention::expect_rows(int64_t head, const std::vector<int64_t>& queries) {
  const int64_t dim = c_.head_dim, kv_head = head / group();
  const std::vector<float> keys = host_head(kKeys, kv_head), values = host_head(kValues, kv_head);
  const std::vector<float> lse = device_lse(head);
  Rows out, dq;
  for (const int64_t query : queries) {
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
    // f32 sums of 131,072 terms err by some 1e-5; a lost block of them would cost 5e-4.
    EXPECT_NEAR(static_cast<double>(lse[static_cast<size_t>(query)]), top + std::log(sum), 1e-4)
        << "query " << query;
    std::vector<double> o(size), plain_o(size), d(size), plain_d(size);
    const auto p = [&](size_t i) { return std::exp(s[i] - top) / sum; };
    const auto plain_p = [&](size_t i) {
      return rounded(std::exp(rounded(s[i]) - plain_top) / plain_sum);
    };
    for (size_t i = 0; i < n; ++i) {
      add(o, p(i), &values[static_cast<size_t>(seen[i] * dim)]);
      add(plain_o, plain_p(i), &values[static_cast<size_t>(seen[i] * dim)]);
    }
    append_rounded(out.plain, plain_o);
    const double delta = dot(o, dout);
    const double plain_delta = dot(
        std::vector<double>(out.plain.end() - static_cast<std::ptrdiff_t>(dim), out.plain.end()),
        dout);
    for (size_t i = 0; i < n; ++i) {
      const float* key = &keys[static_cast<size_t>(seen[i] * dim)];
      add(d, scale() * p(i) * (dp[i] - delta), key);
      add(plain_d, scale() * rounded(plain_p(i) * (rounded(dp[i]) - plain_delta)), key);
    }
    out.truth.insert(out.truth.end(), o.begin(), o.end());
    dq.truth.insert(dq.truth.end(), d.begin(), d.end());
    append_rounded(dq.plain, plain_d);
    const auto got_out = device_row(out_, query, head), got_dq = device_row(dq_, query, head);
    out.got.insert(out.got.end(), got_out.begin(), got_out.end());
    dq.got.insert(dq.got.end(), got_dq.begin(), got_dq.end());
  }
  expect_near("out", out);
  expect_near("dq", dq);
}

// Probabilities and the row sums of dout * out come from the device's own lse and out, whose rows
// expect_rows holds against f64: forming them here would take the square of the length.
void LongAttention::expect_columns(int64_t kv_head, const std::vector<int64_t>& keys) {
  const int64_t dim = c_.head_dim;
  const auto size = static_cast<size_t>(dim);
  const auto zeros = std::vector<std::vector<double>>(keys.size(), std::vector<double>(size));
  auto dk = zeros, dv = zeros, plain_dk = zeros, plain_dv = zeros;
  std::vector<std::vector<float>> k, v;
  for (const int64_t key : keys) {
    k.push_back(host_row(kKeys, c_.kv_heads, key, kv_head));
    v.push_back(host_row(kValues, c_.kv_heads, key, kv_head));
  }
  std::vector<bf16> outs(static_cast<size_t>(c_.q_heads * dim) * 1024);
  for (int64_t head = kv_head * group(); head < (kv_head + 1) * group(); ++head) {
    const std::vector<float> lse = device_lse(head);
    for (int64_t query = 0; query < c_.rows; ++query) {
      if (query % 1024 == 0) {  // out, a piece at a time
        const int64_t count = std::min<int64_t>(1024, c_.rows - query) * c_.q_heads * dim;
        backend_.copy(Tensor(outs.data(), DType::kBF16, {count}),
                      out_.slice(0, query, count / (c_.q_heads * dim)).reshape({count}));
      }
      std::vector<float> q, dout;
      double delta = 0;
      for (size_t n = 0; n < keys.size(); ++n) {
        if (keys[n] > query || !c_.pattern.sees_block(query / 64, keys[n] / 64, kv_head)) continue;
        if (q.empty()) {
          q = host_row(kQueries, c_.q_heads, query, head);
          dout = host_row(kGradients, c_.q_heads, query, head);
          const bf16* out = &outs[static_cast<size_t>(((query % 1024) * c_.q_heads + head) * dim)];
          for (size_t i = 0; i < size; ++i) {
            delta += static_cast<double>(out[i]) * static_cast<double>(dout[i]);
          }
        }
        const double s = scale() * dot(q.data(), k[n].data(), dim);
        const double dp = dot(dout.data(), v[n].data(), dim);
        const auto at = static_cast<double>(lse[static_cast<size_t>(query)]);
        const double p = std::exp(s - at), plain_p = rounded(std::exp(rounded(s) - at));
        add(dv[n], p, dout.data());
        add(plain_dv[n], plain_p, dout.data());
        add(dk[n], scale() * p * (dp - delta), q.data());
        add(plain_dk[n], scale() * rounded(plain_p * (rounded(dp) - delta)), q.data());
      }
    }
  }
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
  compare("dk", dk_, dk, plain_dk);
  compare("dv", dv_, dv, plain_dv);
}

}  // namespace longgen::testing
