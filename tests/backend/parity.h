// Runs one operation on the reference (f64) and on the cpu backend with the same inputs, and
// compares.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <deque>
#include <initializer_list>
#include <limits>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "longgen/backend/backend.h"
#include "longgen/backend/cpu/cpu_features.h"
#include "longgen/base/rng.h"

namespace longgen::testing {

// A tensor in two copies: f64 for the reference and some dtype for the backend under test. Rows of
// the latter lie `padding` elements apart, and the gaps hold a mark that must survive.
class Operand {
 public:
  Operand(DType dtype, std::vector<int64_t> shape, int64_t padding)
      : dtype_(dtype), shape_(std::move(shape)), padding_(padding) {
    length_ = shape_.back();
    rows_ = 1;
    for (size_t i = 0; i + 1 < shape_.size(); ++i) rows_ *= shape_[i];
    exact_.assign(static_cast<size_t>(rows_ * length_), 0.0);
    bytes_.resize(static_cast<size_t>(rows_ * (length_ + padding_) * dtype_size(dtype_)));
    std::memset(bytes_.data(), kMark, bytes_.size());
  }

  Tensor reference() { return Tensor(exact_.data(), DType::kF64, shape_); }
  Tensor tested() {
    std::vector<int64_t> padded = shape_;
    padded.back() += padding_;
    return Tensor(bytes_.data(), dtype_, padded).slice(-1, 0, length_);
  }

  int64_t rows() const { return rows_; }
  int64_t length() const { return length_; }
  DType dtype() const { return dtype_; }
  double exact(int64_t row, int64_t i) const {
    return exact_[static_cast<size_t>(row * length_ + i)];
  }
  double actual(int64_t row, int64_t i) const { return get(row * (length_ + padding_) + i); }
  // The value rounded to the tested dtype: what a perfect implementation would store.
  double rounded(double x) const {
    return dtype_ == DType::kBF16 ? static_cast<double>(bf16(static_cast<float>(x)))
                                  : static_cast<double>(static_cast<float>(x));
  }

  // Sets both copies to the same, representable, value.
  void set(int64_t row, int64_t i, double value) {
    value = rounded(value);
    exact_[static_cast<size_t>(row * length_ + i)] = value;
    put(row * (length_ + padding_) + i, value);
  }
  template <typename Value>
  void fill(const Value& value) {
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t i = 0; i < length_; ++i) set(r, i, value(r, i));
    }
  }

  bool gaps_intact() const {
    const int64_t size = dtype_size(dtype_);
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t i = length_ * size; i < (length_ + padding_) * size; ++i) {
        if (bytes_[static_cast<size_t>(r * (length_ + padding_) * size + i)] != kMark) return false;
      }
    }
    return true;
  }
  const std::vector<unsigned char>& bytes() const { return bytes_; }

 private:
  static constexpr unsigned char kMark = 0x5a;

  double get(int64_t at) const {
    const unsigned char* p = bytes_.data() + at * dtype_size(dtype_);
    if (dtype_ == DType::kBF16) return static_cast<double>(*reinterpret_cast<const bf16*>(p));
    return static_cast<double>(*reinterpret_cast<const float*>(p));
  }
  void put(int64_t at, double value) {
    unsigned char* p = bytes_.data() + at * dtype_size(dtype_);
    if (dtype_ == DType::kBF16) {
      *reinterpret_cast<bf16*>(p) = bf16(static_cast<float>(value));
    } else {
      *reinterpret_cast<float*>(p) = static_cast<float>(value);
    }
  }

  DType dtype_;
  std::vector<int64_t> shape_;
  int64_t padding_, rows_ = 0, length_ = 0;
  std::vector<double> exact_;
  std::vector<unsigned char> bytes_;
};

// Parameter of the tests: instruction set and activation dtype.
using CpuCase = std::tuple<CpuIsa, DType>;

inline std::string cpu_case_name(const ::testing::TestParamInfo<CpuCase>& info) {
  return std::string(cpu_isa_name(std::get<0>(info.param))) + "_" +
         std::string(dtype_name(std::get<1>(info.param)));
}

inline auto all_cpu_cases() {
  return ::testing::Combine(::testing::ValuesIn(available_cpu_isas()),
                            ::testing::Values(DType::kF32, DType::kBF16));
}

class CpuParity : public ::testing::TestWithParam<CpuCase> {
 protected:
  CpuIsa isa() const { return std::get<0>(GetParam()); }
  DType dtype() const { return std::get<1>(GetParam()); }
  Backend& reference() { return *reference_; }
  Backend& cpu() { return *cpu_; }

  // Uniform in [-1, 1), times `scale`.
  Operand& input(DType dtype, std::vector<int64_t> shape, double scale = 1, int64_t padding = 0) {
    Operand& x = operands_.emplace_back(dtype, std::move(shape), padding);
    const uint64_t stream = ++streams_;
    std::array<uint32_t, 4> words{};
    uint64_t drawn = 0;
    x.fill([&](int64_t, int64_t) {
      if (drawn % 4 == 0) words = philox(7, stream, drawn / 4);
      return (words[drawn++ % 4] * 0x1p-31 - 1) * scale;
    });
    return x;
  }
  Operand& input(std::vector<int64_t> shape, double scale = 1, int64_t padding = 0) {
    return input(dtype(), std::move(shape), scale, padding);
  }
  // Poisoned: whatever is left unwritten shows.
  Operand& output(DType dtype, std::vector<int64_t> shape, int64_t padding = 0) {
    Operand& x = operands_.emplace_back(dtype, std::move(shape), padding);
    x.fill([](int64_t, int64_t) { return std::numeric_limits<double>::quiet_NaN(); });
    return x;
  }
  Operand& output(std::vector<int64_t> shape, int64_t padding = 0) {
    return output(dtype(), std::move(shape), padding);
  }
  Tensor ids(const std::vector<int32_t>& values) {
    ids_.push_back(values);
    return Tensor(ids_.back().data(), DType::kI32, {static_cast<int64_t>(values.size())});
  }

  // op(backend, pick) with pick(operand) the tensor for that backend.
  template <typename Op>
  void run(const Op& op) {
    op(reference(), [](Operand& x) { return x.reference(); });
    op(cpu(), [](Operand& x) { return x.tested(); });
  }

  // Relative L2 over the whole and over every row: at most `f32_error`, plus, for a bf16 result,
  // twice what rounding the exact result to bf16 costs (a plain bf16 implementation does no
  // better). Rows that cancel to nearly nothing are measured against the mean row, and a row may be
  // three times as bad as the whole.
  void expect_close(const Operand& x, double f32_error, const std::string& what) {
    ASSERT_TRUE(x.gaps_intact()) << what << ": wrote between rows";
    std::vector<Squares> rows;
    Squares all;
    for (int64_t r = 0; r < x.rows(); ++r) {
      rows.push_back(squares(x, r));
      all.error += rows.back().error;
      all.norm += rows.back().norm;
      all.rounding += rows.back().rounding;
    }
    ASSERT_LE(std::sqrt(all.error), f32_error * std::sqrt(all.norm) + 2 * std::sqrt(all.rounding))
        << what;
    const double mean_norm = all.norm / static_cast<double>(std::max<int64_t>(1, x.rows()));
    for (size_t r = 0; r < rows.size(); ++r) {
      const double norm = std::sqrt(std::max(rows[r].norm, mean_norm));
      ASSERT_LE(std::sqrt(rows[r].error), 3 * f32_error * norm + 2 * std::sqrt(rows[r].rounding))
          << what << ", row " << r;
    }
  }

 private:
  struct Squares {
    double error = 0, norm = 0, rounding = 0;
  };
  static Squares squares(const Operand& x, int64_t row) {
    Squares s;
    for (int64_t i = 0; i < x.length(); ++i) {
      const double exact = x.exact(row, i), error = x.actual(row, i) - exact;
      const double rounding = x.rounded(exact) - exact;
      s.error += error * error;
      s.norm += exact * exact;
      s.rounding += rounding * rounding;
    }
    return s;
  }

  std::unique_ptr<Backend> reference_ = make_reference_backend();
  std::unique_ptr<Backend> cpu_ = make_cpu_backend(2, std::get<0>(GetParam()));
  uint64_t streams_ = 0;  // random ones, one an operand
  std::deque<Operand> operands_;
  std::deque<std::vector<int32_t>> ids_;
};

}  // namespace longgen::testing
