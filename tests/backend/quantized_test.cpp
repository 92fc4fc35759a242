// Quantised weights: their layout, and products of the cpu backend against the reference's f64
// products of the dequantised values, on every instruction set of this processor.
#include "longgen/backend/quantized.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "longgen/backend/cpu/quantized_kernels.h"
#include "longgen/backend/cpu/quantized_linear.h"
#include "tests/backend/parity.h"

namespace longgen::testing {
namespace {

using quantized::RowBlock;

constexpr WeightScheme kSchemes[] = {WeightScheme::kQ8_0, WeightScheme::kQ4_0, WeightScheme::kQ4_1,
                                     WeightScheme::kQ4_K, WeightScheme::kQ6_K};

// A weight with random codes and scales; rows that fill up the last panel stay zero.
class RandomWeight {
 public:
  RandomWeight(WeightScheme scheme, int64_t n, int64_t k, uint64_t seed)
      : bytes_(static_cast<size_t>(quantized::weight_bytes(scheme, n, k))),
        view_(Tensor(bytes_.data(), DType::kU8, {static_cast<int64_t>(bytes_.size())}), scheme, n,
              k) {
    Rng rng(seed, 0);
    const quantized::Layout& l = quantized::layout(scheme);
    const int64_t size = quantized::row_block(scheme);
    const auto below = [&](int bound) { return static_cast<int>(rng.uniform() * bound); };
    for (int64_t row = 0; row < n; ++row) {
      for (int64_t i = 0; i < k / size; ++i) {
        RowBlock block;
        const double d = (0.2 + rng.uniform()) / (1 << l.bits) / (l.shared_blocks > 1 ? 32 : 1);
        block.d = float_to_f16(static_cast<float>(d * (below(2) ? 1 : -1))).bits;
        if (l.has_offset) block.m = float_to_f16(static_cast<float>(-8 * d)).bits;
        if (scheme == WeightScheme::kQ4_K) {
          for (size_t j = 0; j < 8; ++j) {
            block.scales[j] = static_cast<uint8_t>(below(64));
            block.mins[j] = static_cast<uint8_t>(below(64));
          }
        } else if (scheme == WeightScheme::kQ6_K) {
          for (auto& scale : block.scales) scale = static_cast<uint8_t>(below(256));
        }
        for (int64_t j = 0; j < size; ++j) {
          block.codes[static_cast<size_t>(j)] = static_cast<uint8_t>(below(1 << l.bits));
        }
        quantized::store_block(view_, row, i, block);
        blocks_.push_back(block);
      }
    }
  }

  const WeightView& view() const { return view_; }
  const std::vector<RowBlock>& blocks() const { return blocks_; }
  std::vector<double> row(int64_t r) const {
    std::vector<double> values(static_cast<size_t>(view_.k()));
    quantized::dequantize_row(view_, r, values.data());
    return values;
  }

 private:
  std::vector<uint8_t> bytes_;
  WeightView view_;
  std::vector<RowBlock> blocks_;
};

std::string scheme_of(WeightScheme scheme) { return std::string(quantized::scheme_name(scheme)); }

TEST(QuantizedLayout, KeepsEveryBlock) {
  for (const WeightScheme scheme : kSchemes) {
    const int64_t n = 37, k = 512, size = quantized::row_block(scheme);
    const RandomWeight w(scheme, n, k, 3);
    auto expected = w.blocks().begin();
    for (int64_t row = 0; row < n; ++row) {
      for (int64_t i = 0; i < k / size; ++i, ++expected) {
        const RowBlock block = quantized::load_block(w.view(), row, i);
        ASSERT_EQ(block.d, expected->d) << scheme_of(scheme) << " row " << row;
        ASSERT_EQ(block.m, expected->m) << scheme_of(scheme) << " row " << row;
        ASSERT_EQ(block.scales, expected->scales) << scheme_of(scheme) << " row " << row;
        ASSERT_EQ(block.mins, expected->mins) << scheme_of(scheme) << " row " << row;
        ASSERT_EQ(block.codes, expected->codes) << scheme_of(scheme) << " row " << row;
      }
    }
  }
}

// Bytes a row, of full panels, are those of ggml's types, but for Q4_K's scales, which are not
// packed to 6 bits.
TEST(QuantizedLayout, TakesNoMoreThanTheFile) {
  EXPECT_EQ(quantized::weight_bytes(WeightScheme::kQ8_0, 64, 512), 64 * 512 / 32 * 34);
  EXPECT_EQ(quantized::weight_bytes(WeightScheme::kQ4_0, 64, 512), 64 * 512 / 32 * 18);
  EXPECT_EQ(quantized::weight_bytes(WeightScheme::kQ4_1, 64, 512), 64 * 512 / 32 * 20);
  EXPECT_EQ(quantized::weight_bytes(WeightScheme::kQ4_K, 64, 512), 64 * 512 / 256 * 148);
  EXPECT_EQ(quantized::weight_bytes(WeightScheme::kQ6_K, 64, 512), 64 * 512 / 256 * 210);
  EXPECT_EQ(quantized::weight_bytes(WeightScheme::kQ8_0, 33, 32), 64 * 34);
  EXPECT_THROW(quantized::weight_bytes(WeightScheme::kQ4_1, 64, 48), Error);
  EXPECT_THROW(quantized::weight_bytes(WeightScheme::kQ6_K, 64, 288), Error);
}

// What rounding x to 8 bits may cost output j of row r: half a step, plus the roundings of the step
// itself, per unit of weight; and the roundings of the f32 sums, one for each of the at most four
// terms of a block, on sums whose parts are no greater than those of |x| |w| and, where there is
// an offset, d code and m apart.
class ErrorBound {
 public:
  explicit ErrorBound(const RandomWeight& w) : w_(w) {
    const WeightView& view = w.view();
    const int64_t size = quantized::row_block(view.scheme);
    for (int64_t r = 0; r < view.n(); ++r) {
      rows_.push_back(w.row(r));
      auto& offsets = offsets_.emplace_back(static_cast<size_t>(view.k() / 32));
      for (int64_t b = 0; b < view.k() / 32; ++b) {
        const RowBlock block = quantized::load_block(view, r, b * 32 / size);
        const double m = std::abs(f16_to_float(f16{block.m}));
        const double min =
            view.scheme == WeightScheme::kQ4_K ? block.mins[static_cast<size_t>(b % 8)] : 1;
        offsets[static_cast<size_t>(b)] = m * min;
      }
    }
  }

  double of(const Operand& x, int64_t r, int64_t j, bool tiles) const {
    const std::vector<double>& w = rows_[static_cast<size_t>(j)];
    const auto& offsets = offsets_[static_cast<size_t>(j)];
    double step_error = 0, magnitude = 0;
    for (size_t b = 0; b < w.size() / 32; ++b) {
      double greatest = 0, weights = 0;
      for (size_t i = 32 * b; i < 32 * (b + 1); ++i) {
        const double value = std::abs(x.exact(r, static_cast<int64_t>(i)));
        greatest = std::max(greatest, value);
        weights += std::abs(w[i]);
        // |d code| <= |w| + |m|
        magnitude += (value + greatest / 254) * (std::abs(w[i]) + 2 * offsets[b]);
      }
      step_error += greatest / 127 * (0.5 + 127 * 4 * 6e-8) * weights;
    }
    const double roundings = (4.0 * static_cast<double>(w.size()) / 32 + 4) * 6e-8 * magnitude;
    // Tiles: weights are rounded to bf16 (2^-9), activations are kept; sums of k terms.
    if (tiles) return magnitude * (std::ldexp(1, -9) + static_cast<double>(w.size()) * 6e-8);
    return step_error + roundings;
  }

 private:
  const RandomWeight& w_;
  std::vector<std::vector<double>> rows_, offsets_;
};

class CpuQuantized : public CpuParity {
 protected:
  bool uses_tiles(int64_t rows) const {
    return isa() == CpuIsa::kAmx && dtype() == DType::kBF16 && rows >= QuantizedLinear::kTileRows;
  }
};
INSTANTIATE_TEST_SUITE_P(All, CpuQuantized, all_cpu_cases(), cpu_case_name);

struct QuantizedShape {
  int64_t rows, n, k;
};

TEST_P(CpuQuantized, ForwardWithinTheBoundOfRounding) {
  std::vector<QuantizedShape> shapes = {{1, 1, 256},   {1, 577, 512}, {3, 31, 256},
                                        {64, 33, 256}, {70, 40, 512}, {300, 33, 256}};
  for (int64_t rows = 1; rows <= 40; ++rows) shapes.push_back({rows, 33, 256});
  for (const WeightScheme scheme : kSchemes) {
    int variant = 0;
    for (const QuantizedShape& s : shapes) {
      const RandomWeight w(scheme, s.n, s.k, static_cast<uint64_t>(s.rows));
      const ErrorBound bound(w);
      const bool accumulate = ++variant % 2 == 0, wide = variant % 3 == 0;
      const DType out = wide ? DType::kF32 : dtype();
      Operand& x = input({s.rows, s.k}, 2, 3);
      Operand& bias = input({s.n});
      Operand& y = accumulate ? input(out, {s.rows, s.n}, 1, 2) : output(out, {s.rows, s.n}, 2);
      run([&](Backend& b, auto t) {
        b.linear_forward(t(y), t(x), w.view(), wide ? Tensor() : t(bias), accumulate);
      });
      ASSERT_TRUE(y.gaps_intact());
      for (int64_t r = 0; r < s.rows; ++r) {
        for (int64_t j = 0; j < s.n; ++j) {
          const double exact = y.exact(r, j), error = std::abs(y.actual(r, j) - exact);
          // Beside the product: adding bias and y in f32, and rounding the result to its dtype.
          const double limit = bound.of(x, r, j, uses_tiles(s.rows)) * 1.001;
          const double stored = std::abs(exact) + limit + 4;
          ASSERT_LE(error, limit + stored * (out == DType::kBF16 ? std::ldexp(1, -9) : 3e-7))
              << scheme_of(scheme) << " " << s.rows << " x " << s.n << " x " << s.k << " at " << r
              << ", " << j;
        }
      }
    }
  }
}

// Outputs do not depend on the rows beside them, on the number of threads, or on the run.
TEST_P(CpuQuantized, RowsAreIndependentAndRepeat) {
  const auto three_threads = make_cpu_backend(3, isa());
  for (const WeightScheme scheme : kSchemes) {
    const int64_t n = 150, k = 512, rows = 90;
    const RandomWeight w(scheme, n, k, 5);
    Operand& x = input({rows, k});
    for (const int64_t whole_rows : {int64_t{31}, rows}) {
      Operand& whole = output({whole_rows, n});
      cpu().linear_forward(whole.tested(), x.tested().slice(0, 0, whole_rows), w.view(), {}, false);
      for (const int64_t count : {1, 2, 5, 7, 8, 20, 32, 45, 90}) {
        if (count > whole_rows || uses_tiles(count) != uses_tiles(whole_rows)) continue;
        Operand& part = output({count, n});
        const int64_t begin = whole_rows - count;
        three_threads->linear_forward(part.tested(), x.tested().slice(0, begin, count), w.view(),
                                      {}, false);
        for (int64_t r = 0; r < count; ++r) {
          for (int64_t j = 0; j < n; ++j) {
            ASSERT_EQ(part.actual(r, j), whole.actual(begin + r, j))
                << scheme_of(scheme) << " " << count << " of " << whole_rows << ", row " << r;
          }
        }
      }
    }
  }
}

TEST_P(CpuQuantized, EmbeddingRowsAreExact) {
  for (const WeightScheme scheme : kSchemes) {
    const RandomWeight w(scheme, 70, 256, 8);
    const Tensor index = ids({69, 0, 33, 33, 31});
    for (const bool accumulate : {false, true}) {
      Operand& out = accumulate ? input({5, 256}, 1, 2) : output({5, 256}, 2);
      run([&](Backend& b, auto t) { b.embedding_forward(t(out), w.view(), index, accumulate); });
      expect_close(out, 1.5e-7, scheme_of(scheme));
    }
    EXPECT_THROW(cpu().embedding_forward(output({1, 256}).tested(), w.view(), ids({70}), false),
                 Error);
  }
}

// A row of x with NaN or infinity gives NaN or infinity in all of its outputs, and in no others.
TEST_P(CpuQuantized, NonFinitesStayInTheirRow) {
  const RandomWeight w(WeightScheme::kQ4_1, 40, 256, 2);
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    for (const int64_t rows : {2, 50}) {
      Operand& x = input({rows, 256});
      x.set(1, 77, bad);
      Operand& y = output({rows, 40});
      cpu().linear_forward(y.tested(), x.tested(), w.view(), {}, false);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t j = 0; j < 40; ++j) ASSERT_EQ(std::isfinite(y.actual(r, j)), r != 1) << rows;
      }
    }
  }
}

TEST_P(CpuQuantized, WhatCannotBeDoneIsAnError) {
  const RandomWeight w(WeightScheme::kQ4_0, 40, 64, 2);
  Operand& x = input({2, 64});
  Operand& y = output({2, 40});
  EXPECT_THROW(cpu().linear_backward_input(x.tested(), y.tested(), w.view(), false), Error);
  Operand& narrow = input({2, 32});
  EXPECT_THROW(cpu().linear_forward(y.tested(), narrow.tested(), w.view(), {}, false), Error);
  // Zeros, and magnitudes whose reciprocals overflow, are no division by zero.
  x.fill([](int64_t r, int64_t i) { return r == 0 ? 0 : i == 5 ? 1e-38 : 0; });
  cpu().linear_forward(y.tested(), x.tested(), w.view(), {}, false);
  for (int64_t j = 0; j < 40; ++j) {
    EXPECT_EQ(y.actual(0, j), 0);
    EXPECT_LT(std::abs(y.actual(1, j)), 1e-30);
  }
}

// All kernels with fused multiply-add give the same bits, whichever dot products they have: the
// processor's choice between them changes no result.
TEST(QuantizedKernels, AgreeToTheBit) {
  std::vector<const QuantizedKernels*> kernels;
  if (cpu_has(CpuIsa::kAvx2)) kernels.push_back(&kQuantizedAvx2);
  if (cpu_has_avx_vnni()) kernels.push_back(&kQuantizedAvxVnni);
  if (cpu_has_avx512_vnni()) kernels.push_back(&kQuantizedAvx512Vnni);
  if (kernels.size() < 2) GTEST_SKIP() << "this processor has only one of them";
  Rng rng(11, 0);
  const int64_t rows = 15, blocks = 16;
  std::vector<float> x(static_cast<size_t>(rows * blocks * 32));
  for (float& value : x) value = static_cast<float>(2 * rng.uniform() - 1);
  for (const WeightScheme scheme : kSchemes) {
    const RandomWeight w(scheme, 32, blocks * 32, 4);
    const quantized::Layout& l = quantized::layout(scheme);
    std::vector<float> first;
    for (const QuantizedKernels* kernel : kernels) {
      std::vector<int8_t> codes(x.size());
      std::vector<ActivationBlock> info(x.size() / 32);
      kernel->quantize_f32(x.data(), rows * blocks, l.zero, l.groups, codes.data(), info.data());
      std::vector<float> c(static_cast<size_t>(rows * 32), NAN);
      kernel->multiply[static_cast<int>(scheme)](static_cast<uint8_t*>(w.view().data.raw()), blocks,
                                                 codes.data(), info.data(), rows, c.data(), 32);
      if (first.empty()) first = c;
      ASSERT_EQ(std::memcmp(first.data(), c.data(), c.size() * sizeof(float)), 0)
          << scheme_of(scheme) << " " << kernel->name;
    }
  }
}

// The greatest codes and activations there are: no sum on the way may saturate.
TEST_P(CpuQuantized, ExtremesDoNotSaturate) {
  for (const WeightScheme scheme : kSchemes) {
    const quantized::Layout& l = quantized::layout(scheme);
    const int64_t k = quantized::row_block(scheme);
    std::vector<uint8_t> bytes(static_cast<size_t>(quantized::weight_bytes(scheme, 2, k)));
    const WeightView w(Tensor(bytes.data(), DType::kU8, {static_cast<int64_t>(bytes.size())}),
                       scheme, 2, k);
    for (int64_t row = 0; row < 2; ++row) {
      RowBlock block;
      block.d = float_to_f16(1).bits;
      block.scales.fill(1);
      block.codes.fill(static_cast<uint8_t>(row == 0 ? (1 << l.bits) - 1 : 0));
      quantized::store_block(w, row, 0, block);
    }
    Operand& x = input({2, k});
    x.fill([](int64_t r, int64_t) { return r == 0 ? 127 : -127; });  // exact in 8 bits
    Operand& y = output(DType::kF32, {2, 2});
    run([&](Backend& b, auto t) { b.linear_forward(t(y), t(x), w, {}, false); });
    for (int64_t r = 0; r < 2; ++r) {
      for (int64_t j = 0; j < 2; ++j) {
        ASSERT_NEAR(y.actual(r, j), y.exact(r, j), std::abs(y.exact(r, j)) * 1e-6)
            << scheme_of(scheme) << " " << r << ", " << j;
      }
    }
  }
}

}  // namespace
}  // namespace longgen::testing
