// Stochastic rounding, and the AdamW step that uses it.
#include "longgen/backend/stochastic_rounding.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "longgen/backend/cpu/cpu_features.h"
#include "longgen/base/error.h"
#include "longgen/base/rng.h"

namespace longgen {
namespace {

// Between two neighbours, up as often as the distance says.
TEST(StochasticRounding, IsRightOnAverage) {
  constexpr int64_t kDraws = 1 << 16;
  const StochasticRounding rounding = rounding_of(3, 1, 0);
  for (const double share : {0.0, 0.1, 0.5, 0.93}) {
    for (const double sign : {1.0, -1.0}) {
      const double low = 1.5, spacing = std::ldexp(1, -7);
      const auto x = static_cast<float>(sign * (low + share * spacing));
      int64_t ups[3] = {};
      for (int64_t i = 0; i < kDraws; ++i) {
        const RoundingBits bits = rounding_bits(rounding, i);
        const uint16_t draws[] = {bits.weight, bits.m, bits.v};
        for (int k = 0; k < 3; ++k) {
          const double rounded = sign * static_cast<double>(round_stochastically(x, draws[k]));
          ASSERT_TRUE(rounded == low || rounded == low + spacing) << x << " to " << rounded;
          ups[k] += rounded > low;
        }
      }
      // Five standard deviations of a binomial, at most 0.01 of the draws.
      const double bound = 5 * std::sqrt(share * (1 - share) / kDraws);
      for (const int64_t up : ups) {
        EXPECT_NEAR(static_cast<double>(up) / kDraws, share, bound) << x;
      }
    }
  }
}

TEST(StochasticRounding, KeepsWhatBf16Has) {
  const float values[] = {0.f, -0.f, 1.f, -1.5f, std::numeric_limits<float>::infinity()};
  for (const float x : values) {
    for (const uint16_t bits : {uint16_t{0}, uint16_t{1}, uint16_t{0xffff}}) {
      EXPECT_EQ(round_stochastically(x, bits).bits, bf16(x).bits) << x;
    }
  }
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(static_cast<float>(round_stochastically(nan, 0xffff))));
}

TEST(StochasticRounding, StreamsDiffer) {
  const auto first = [](const StochasticRounding& r) { return philox(r.seed, r.stream, 0); };
  const auto base = first(rounding_of(3, 1, 0));
  EXPECT_NE(base, first(rounding_of(3, 1, 1)));
  EXPECT_NE(base, first(rounding_of(3, 2, 0)));
  EXPECT_NE(base, first(rounding_of(4, 1, 0)));
  EXPECT_NE(base, philox(3, 1, 0));
  EXPECT_THROW(rounding_of(3, 0, 0), Error);
}

struct State {
  explicit State(int64_t n) : weights(size(n)), m(size(n)), v(size(n)), gradient(size(n)) {
    Rng rng(11, 0);
    for (size_t i = 0; i < size(n); ++i) {
      weights[i] = bf16(static_cast<float>(0.02 * rng.normal()));
      m[i] = bf16(static_cast<float>(1e-3 * rng.normal()));
      v[i] = bf16(static_cast<float>(1e-6 * std::abs(rng.normal())));
      gradient[i] = 1e-2 * rng.normal();
      gradient[i] = static_cast<float>(gradient[i]);
    }
  }
  static size_t size(int64_t n) { return static_cast<size_t>(n); }

  void step(Backend& backend, const AdamW& args, const StochasticRounding& rounding) {
    const bool f64 = backend.supports(DType::kF64);
    std::vector<float> narrow(gradient.begin(), gradient.end());
    const Tensor g = f64 ? Tensor::of(std::span(gradient)) : Tensor::of(std::span<float>(narrow));
    backend.adamw_step_bf16(Tensor::of(std::span(weights)), Tensor::of(std::span(m)),
                            Tensor::of(std::span(v)), g, args, rounding);
  }
  bool operator==(const State& other) const {
    const auto same = [](const std::vector<bf16>& a, const std::vector<bf16>& b) {
      return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                        [](bf16 x, bf16 y) { return x.bits == y.bits; });
    };
    return same(weights, other.weights) && same(m, other.m) && same(v, other.v);
  }

  std::vector<bf16> weights, m, v;
  std::vector<double> gradient;
};

// Sums in f32 differ from those in f64 by some 2^-22 of their terms, which are about `scale`;
// rounding to 2^-8 by the same random bits then comes out differently, by one spacing, for a few of
// 2^14 elements.
void expect_like(const std::vector<bf16>& found, const std::vector<bf16>& expected, double scale) {
  int64_t differing = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    if (found[i].bits == expected[i].bits) continue;
    ++differing;
    const auto value = static_cast<double>(expected[i]);
    ASSERT_NEAR(static_cast<double>(found[i]), value,
                std::ldexp(std::abs(value), -7) + std::ldexp(scale, -20))
        << "element " << i;
  }
  EXPECT_LE(static_cast<double>(differing), 2e-3 * static_cast<double>(found.size()) + 1);
}

class AdamWBf16 : public ::testing::TestWithParam<CpuIsa> {};

TEST_P(AdamWBf16, FollowsTheReference) {
  const auto reference = make_reference_backend();
  const auto cpu = make_cpu_backend(2, GetParam());
  const AdamW args{.lr = 1e-3, .weight_decay = 0.1, .step = 5, .gradient_scale = 0.5};
  for (const int64_t n : {1, 15, 33, 9001}) {
    State expected(n), found(n);
    expected.step(*reference, args, rounding_of(7, 5, 2));
    found.step(*cpu, args, rounding_of(7, 5, 2));
    expect_like(found.weights, expected.weights, 0.02);
    expect_like(found.m, expected.m, 1e-3);
    expect_like(found.v, expected.v, 1e-6);
  }
}

TEST_P(AdamWBf16, DoesNotDependOnThreads) {
  const AdamW args{.lr = 1e-3, .step = 1};
  State one(20001), three(20001), other(20001);
  one.step(*make_cpu_backend(1, GetParam()), args, rounding_of(7, 1, 2));
  three.step(*make_cpu_backend(3, GetParam()), args, rounding_of(7, 1, 2));
  other.step(*make_cpu_backend(3, GetParam()), args, rounding_of(7, 1, 3));
  EXPECT_TRUE(one == three);
  EXPECT_FALSE(one == other);
}

// 400 equal updates, each a 40th of a weight's spacing: nearest rounding would lose every one.
TEST_P(AdamWBf16, SmallUpdatesAddUp) {
  constexpr int64_t kCount = 4096;
  const auto cpu = make_cpu_backend(2, GetParam());
  State state(kCount);
  const double spacing = std::ldexp(1, -7), lr = spacing / 40;
  std::fill(state.weights.begin(), state.weights.end(), bf16(1.5f));
  std::fill(state.m.begin(), state.m.end(), bf16(0.f));
  std::fill(state.v.begin(), state.v.end(), bf16(0.f));
  std::fill(state.gradient.begin(), state.gradient.end(), 0.01);
  for (int64_t step = 1; step <= 400; ++step) {
    state.step(*cpu, {.lr = lr, .step = step}, rounding_of(1, step, 0));
  }
  double mean = 0, square = 0;
  for (int64_t i = 0; i < kCount; ++i) {
    mean += static_cast<double>(state.weights[static_cast<size_t>(i)]) / kCount;
    square += static_cast<double>(state.v[static_cast<size_t>(i)]) / kCount;
  }
  // A constant gradient moves by lr a step, and the mean of 4,096 weights wanders by 0.08 of a
  // spacing in 400 steps; the moments' own rounding takes part of a percent.
  EXPECT_NEAR(1.5 - mean, 400 * lr, 0.02 * 400 * lr);
  EXPECT_NEAR(square, 1e-4, 1e-6);
}

INSTANTIATE_TEST_SUITE_P(Isas, AdamWBf16, ::testing::ValuesIn(available_cpu_isas()),
                         [](const auto& test) { return std::string(cpu_isa_name(test.param)); });

}  // namespace
}  // namespace longgen
