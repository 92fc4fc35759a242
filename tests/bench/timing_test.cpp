#include "bench/timing.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "longgen/base/error.h"

namespace longgen::bench {
namespace {

TEST(Timing, MedianBestAndSpreadOfKnownTimes) {
  const Timing odd = timing_of({5, 1, 3, 2, 4});
  EXPECT_DOUBLE_EQ(odd.median(), 3);
  EXPECT_DOUBLE_EQ(odd.best(), 1);
  EXPECT_DOUBLE_EQ(odd.total(), 15);
  EXPECT_DOUBLE_EQ(odd.spread(), (4.0 - 2.0) / 2 / 3);
  EXPECT_DOUBLE_EQ(timing_of({1, 2, 3, 10}).median(), 2.5);
  EXPECT_DOUBLE_EQ(timing_of({7}).spread(), 0);
  // One disturbed repeat of many moves neither.
  const Timing disturbed = timing_of({1, 1, 1, 1, 1, 1, 100});
  EXPECT_DOUBLE_EQ(disturbed.median(), 1);
  EXPECT_DOUBLE_EQ(disturbed.spread(), 0);
  EXPECT_THROW(timing_of({}), Error);
}

TEST(Timing, RepeatsUntilTimeAndLeastNumberAreReached) {
  const auto count = [](Repeats repeats) {
    int calls = 0;
    const Timing timing = measure([&] { ++calls; }, repeats);
    EXPECT_EQ(calls, static_cast<int>(timing.seconds.size()));
    return calls;
  };
  EXPECT_EQ(count({.least = 3, .most = 50, .seconds = 0}), 3);
  EXPECT_EQ(count({.least = 3, .most = 2, .seconds = 0}), 2);
  EXPECT_EQ(count({.least = 1, .most = 9, .seconds = 1e9}), 9);
}

TEST(Timing, TurnsAreOfEqualTime) {
  const auto backend = make_cpu_backend(1);
  int slow = 0, quick = 0;
  const std::vector<std::function<void()>> calls = {
      [&] {
        ++slow;
        std::this_thread::sleep_for(std::chrono::milliseconds(40));
      },
      [&] {
        ++quick;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }};
  const auto rounds = measure_in_turns(*backend, calls, {.least = 1, .most = 3, .seconds = 1e9});
  ASSERT_EQ(rounds.size(), 2u);
  EXPECT_EQ(rounds[0].size(), 3u);
  EXPECT_EQ(rounds[1].size(), 3u);
  EXPECT_EQ(slow, 1 + 3);  // to warm up, and once a round
  // 40 to a round, or fewer where the machine woke up late when they were warmed up.
  EXPECT_GE(quick, 1 + 3 * 2);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_GE(rounds[0][i], 0.040);
    EXPECT_GE(rounds[1][i], 0.001);
    EXPECT_LT(rounds[1][i], rounds[0][i]);
  }
  EXPECT_TRUE(measure_in_turns(*backend, {}, {}).empty());
}

}  // namespace
}  // namespace longgen::bench
