#include "longgen/train/schedule.h"

#include <gtest/gtest.h>

#include "longgen/base/error.h"

namespace longgen::train {
namespace {

TEST(Schedule, WarmsUpThenFallsToItsEnd) {
  const Schedule s{
      .kind = ScheduleKind::kCosine, .lr = 8, .min_lr = 0.25, .warmup_steps = 4, .steps = 12};
  EXPECT_EQ(s.at(0), 2);
  EXPECT_EQ(s.at(1), 4);
  EXPECT_EQ(s.at(3), 8);
  EXPECT_EQ(s.at(4), 8);
  EXPECT_DOUBLE_EQ(s.at(8), 5);  // half way between 8 and 2
  EXPECT_DOUBLE_EQ(s.at(12), 2);
  for (int64_t i = 5; i < 12; ++i) EXPECT_LT(s.at(i), s.at(i - 1));
  EXPECT_DOUBLE_EQ(s.at(100), 2);
}

TEST(Schedule, ConstantStays) {
  const Schedule s{.kind = ScheduleKind::kConstant, .lr = 3, .warmup_steps = 2, .steps = 4};
  EXPECT_EQ(s.at(0), 1.5);
  EXPECT_EQ(s.at(3), 3);
  EXPECT_EQ(s.at(300), 3);
}

TEST(Schedule, WithoutWarmUpAndAllWarmUp) {
  EXPECT_EQ((Schedule{.lr = 1, .warmup_steps = 0, .steps = 1}.at(0)), 1);
  EXPECT_EQ((Schedule{.lr = 1, .warmup_steps = 5, .steps = 5}.at(4)), 1);
}

TEST(Schedule, NamesAreChecked) {
  EXPECT_EQ(parse_schedule("constant"), ScheduleKind::kConstant);
  EXPECT_THROW(parse_schedule("Cosine"), UsageError);
}

}  // namespace
}  // namespace longgen::train
