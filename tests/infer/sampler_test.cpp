#include "longgen/infer/sampler.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <set>

#include "longgen/base/error.h"

namespace longgen::infer {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kDraws = 50000;

std::vector<double> softmax(const std::vector<float>& logits, double temperature) {
  std::vector<double> p;
  double sum = 0;
  for (const float x : logits) {
    p.push_back(std::exp(x / temperature));
    sum += p.back();
  }
  for (double& x : p) x /= sum;
  return p;
}

// Keeps the listed tokens of p.
std::vector<double> only(std::vector<double> p, const std::set<size_t>& kept) {
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) sum += kept.contains(i) ? p[i] : 0;
  for (size_t i = 0; i < p.size(); ++i) p[i] = kept.contains(i) ? p[i] / sum : 0;
  return p;
}

// Draws tokens and holds their counts to `expected`: none that is impossible, and a chi-square
// statistic below the 1 - 1e-6 quantile (Wilson-Hilferty), so that a fixed seed passes unless the
// distribution is wrong.
void expect_distribution(const SamplingParams& params, const std::vector<float>& logits,
                         const std::vector<double>& expected) {
  Sampler sampler(params, 3);
  std::vector<int64_t> counts(logits.size());
  for (int64_t step = 0; step < kDraws; ++step) {
    const int32_t id = sampler.sample(logits, step);
    ASSERT_GE(id, 0);
    ASSERT_LT(id, static_cast<int32_t>(logits.size()));
    ++counts[static_cast<size_t>(id)];
  }
  double chi_square = 0;
  int64_t cells = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double mean = expected[i] * static_cast<double>(kDraws);
    if (mean == 0) {
      EXPECT_EQ(counts[i], 0) << "token " << i << " is filtered out";
      continue;
    }
    ASSERT_GT(mean, 5) << "the chi-square approximation needs more draws";
    chi_square +=
        (static_cast<double>(counts[i]) - mean) * (static_cast<double>(counts[i]) - mean) / mean;
    ++cells;
  }
  if (cells == 1) return;
  const auto freedom = static_cast<double>(cells - 1);
  const double h = 2 / (9 * freedom), z = 4.753;  // normal quantile of 1 - 1e-6
  EXPECT_LT(chi_square, freedom * std::pow(1 - h + z * std::sqrt(h), 3));
}

const std::vector<float> kLogits = {1.0f, 3.0f, 0.5f, 2.0f, -1.0f, 2.5f, 0.0f};
// In order of likelihood: 1, 5, 3, 0, 2, 6, 4.

TEST(Sampler, TakesTheMostLikelyTokenWhenGreedy) {
  Sampler sampler({}, 0);
  EXPECT_EQ(sampler.sample(kLogits, 0), 1);
  EXPECT_EQ(sampler.sample(std::vector<float>{2, 5, 5, 1}, 0), 1) << "the lowest id among equals";
  EXPECT_EQ(sampler.sample(std::vector<float>{-kInfinity, -3, -4}, 0), 1);
}

TEST(Sampler, FollowsTheTemperature) {
  for (const double temperature : {0.5, 1.0, 2.0}) {
    SCOPED_TRACE(temperature);
    expect_distribution({.temperature = temperature, .seed = 1}, kLogits,
                        softmax(kLogits, temperature));
  }
}

TEST(Sampler, KeepsTheTopK) {
  expect_distribution({.temperature = 1, .top_k = 3, .seed = 2}, kLogits,
                      only(softmax(kLogits, 1), {1, 5, 3}));
  expect_distribution({.temperature = 1, .top_k = 100, .seed = 2}, kLogits, softmax(kLogits, 1));
  // Among equals the lower ids stay.
  expect_distribution({.temperature = 1, .top_k = 2, .seed = 2}, {1, 2, 2, 2}, {0, 0.5, 0.5, 0});
}

TEST(Sampler, KeepsTheSmallestSetThatReachesTopP) {
  const std::vector<float> logits = {std::log(0.1f), std::log(0.5f), std::log(0.05f),
                                     std::log(0.35f)};
  const std::vector<double> p = {0.1, 0.5, 0.05, 0.35};
  expect_distribution({.temperature = 1, .top_p = 0.4, .seed = 3}, logits, only(p, {1}));
  expect_distribution({.temperature = 1, .top_p = 0.6, .seed = 3}, logits, only(p, {1, 3}));
  expect_distribution({.temperature = 1, .top_p = 0.9, .seed = 3}, logits, only(p, {1, 3, 0}));
  expect_distribution({.temperature = 1, .top_p = 1, .seed = 3}, logits, p);
}

TEST(Sampler, DropsWhatIsLessLikelyThanMinP) {
  const std::vector<float> logits = {std::log(0.1f), std::log(0.5f), std::log(0.05f),
                                     std::log(0.35f)};
  const std::vector<double> p = {0.1, 0.5, 0.05, 0.35};
  expect_distribution({.temperature = 1, .min_p = 0.15, .seed = 4}, logits, only(p, {1, 3, 0}));
  expect_distribution({.temperature = 1, .min_p = 0.6, .seed = 4}, logits, only(p, {1, 3}));
  expect_distribution({.temperature = 1, .min_p = 1, .seed = 4}, logits, only(p, {1}));
}

TEST(Sampler, AppliesEachFilterToWhatTheOneBeforeLeft) {
  const std::vector<float> logits = {std::log(0.4f), std::log(0.3f), std::log(0.2f),
                                     std::log(0.1f)};
  // Of {0.4, 0.3, 0.2} = {0.44, 0.33, 0.22}, two tokens reach 0.75; of all four three would be
  // needed.
  expect_distribution({.temperature = 1, .top_k = 3, .top_p = 0.75, .seed = 5}, logits,
                      only({0.4, 0.3, 0.2, 0.1}, {0, 1}));
}

TEST(Sampler, DependsOnSeedStreamAndStepAlone) {
  const std::vector<float> logits(50, 0.0f);
  const auto draw = [&](uint64_t seed, uint64_t stream, bool backwards) {
    Sampler sampler({.temperature = 1, .seed = seed}, stream);
    std::vector<int32_t> ids(40);
    for (int64_t i = 0; i < 40; ++i) {
      const int64_t step = backwards ? 39 - i : i;
      ids[static_cast<size_t>(step)] = sampler.sample(logits, step);
    }
    return ids;
  };
  EXPECT_EQ(draw(7, 1, false), draw(7, 1, true));
  EXPECT_NE(draw(7, 1, false), draw(8, 1, false));
  EXPECT_NE(draw(7, 1, false), draw(7, 2, false));
}

TEST(Sampler, RefusesAbsurdParameters) {
  const auto make = [](const SamplingParams& params) { return Sampler(params, 0); };
  EXPECT_THROW(make({.temperature = -1}), UsageError);
  EXPECT_THROW(make({.temperature = std::nan("")}), UsageError);
  EXPECT_THROW(make({.top_k = -1}), UsageError);
  EXPECT_THROW(make({.top_p = 0}), UsageError);
  EXPECT_THROW(make({.top_p = 1.5}), UsageError);
  EXPECT_THROW(make({.min_p = -0.1}), UsageError);
  EXPECT_THROW(make({.min_p = std::nan("")}), UsageError);
}

TEST(Sampler, SaysWhenNoLogitIsFinite) {
  const std::vector<float> logits = {std::nanf(""), -kInfinity};
  EXPECT_THROW(Sampler({}, 0).sample(logits, 0), Error);
  EXPECT_THROW(Sampler({.temperature = 1}, 0).sample(logits, 0), Error);
}

// Relative to an infinite logit every likelihood vanishes: there would be no token to draw.
TEST(Sampler, RefusesLogitsThatAreInfiniteOrNaN) {
  for (const float bad : {kInfinity, std::nanf("")}) {
    const std::vector<float> logits = {1.0f, bad, 2.0f};
    for (const double temperature : {0.0, 1.0}) {
      try {
        Sampler({.temperature = temperature}, 0).sample(logits, 0);
        FAIL() << bad << " went through at temperature " << temperature;
      } catch (const Error& e) {
        EXPECT_THAT(e.what(), ::testing::HasSubstr("logit of token 1"));
      }
    }
  }
}

}  // namespace
}  // namespace longgen::infer
