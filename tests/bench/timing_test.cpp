#include "bench/timing.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace longgen::bench
