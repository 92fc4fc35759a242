#include "longgen/tensor/tensor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "longgen/tensor/arena.h"

namespace longgen {
namespace {

using ::testing::HasSubstr;

TEST(DTypeTest, Bf16RoundsToNearestEven) {
  EXPECT_EQ(static_cast<float>(bf16(1.0f)), 1.0f);
  EXPECT_EQ(bf16(std::bit_cast<float>(0x3f808000u)).bits, 0x3f80);  // tie, even below
  EXPECT_EQ(bf16(std::bit_cast<float>(0x3f818000u)).bits, 0x3f82);  // tie, even above
  EXPECT_EQ(bf16(std::bit_cast<float>(0x3f808001u)).bits, 0x3f81);
  EXPECT_TRUE(std::isnan(static_cast<float>(bf16(std::bit_cast<float>(0x7f800001u)))));
  EXPECT_TRUE(std::isinf(static_cast<float>(bf16(std::numeric_limits<float>::max()))));
}

TEST(DTypeTest, F16RoundTripsEveryValue) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = f16_to_float({static_cast<uint16_t>(bits)});
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(f16_to_float(float_to_f16(value))));
    } else {
      ASSERT_EQ(float_to_f16(value).bits, bits);
    }
  }
  // halfway between neighbours goes to the even one; just beyond the largest rounds to infinity
  EXPECT_EQ(float_to_f16(1.0f + 0x1p-11f).bits, 0x3c00);
  EXPECT_EQ(float_to_f16(1.0f + 3 * 0x1p-11f).bits, 0x3c02);
  EXPECT_EQ(float_to_f16(65519.0f).bits, 0x7bff);
  EXPECT_EQ(float_to_f16(65520.0f).bits, 0x7c00);
  EXPECT_EQ(float_to_f16(0x1p-25f).bits, 0);
  EXPECT_EQ(float_to_f16(0x1.8p-25f).bits, 1);
}

TEST(TensorTest, SliceAndReshapeKeepElements) {
  std::vector<float> values(2 * 3 * 8);
  std::iota(values.begin(), values.end(), 0.0f);
  const Tensor all(values.data(), DType::kF32, {2, 3, 8});
  const Tensor part = all.slice(2, 4, 4);
  EXPECT_FALSE(part.is_contiguous());
  EXPECT_EQ(part.data<float>()[0], 4);
  const Tensor heads = part.reshape({2, 3, 2, 2});  // splits the strided last axis
  EXPECT_EQ(heads.stride(0), 24);
  EXPECT_EQ(heads.stride(2), 2);
  const Tensor rows = part.reshape({6, 4});  // merges leading axes whose strides agree
  EXPECT_EQ(rows.stride(0), 8);
  const Tensor one =
      all.slice(1, 0, 1);  // an axis of one entry is no obstacle, whatever its stride
  EXPECT_EQ(one.slice(2, 0, 4).reshape({2, 4}).stride(0), 24);
  EXPECT_EQ(one.reshape({1, 2, 1, 8}).stride(1), 24);
  EXPECT_THROW(one.reshape({16}), Error);
  EXPECT_EQ(all.slice(0, 0, 1).slice(1, 0, 1).reshape({1, 4, 2}).stride(0), 24);
  EXPECT_THROW(part.reshape({24}), Error);
  EXPECT_THROW(all.reshape({7, 7}), Error);
  EXPECT_THROW(all.slice(0, 1, 2), Error);
  EXPECT_THROW(all.data<double>(), Error);
  EXPECT_THROW(Tensor(nullptr, DType::kF32, {int64_t{1} << 40, int64_t{1} << 40}), Error);
}

TEST(ArenaTest, HighWaterReportAndExhaustion) {
  HostMemory memory;
  Arena arena("pass", memory, 1 << 20);
  const Tensor weights = arena.allocate("weights", DType::kF32, {100});
  EXPECT_EQ(reinterpret_cast<uintptr_t>(weights.raw()) % 64, 0u);
  EXPECT_EQ(weights.data<float>()[99], 0);
  {
    const ArenaScope scope(arena);
    arena.allocate("scratch", DType::kBF16, {1000});
    EXPECT_EQ(arena.used_bytes(), 448 + 2048);
  }
  EXPECT_EQ(arena.used_bytes(), 448);
  EXPECT_EQ(arena.high_water_bytes(), 448 + 2048);
  EXPECT_EQ(arena.high_water_entries().size(), 2u);
  EXPECT_THAT(arena.report(), HasSubstr("scratch"));
  try {
    arena.allocate("too much", DType::kF64, {1 << 20});
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("too much"));
  }
}

TEST(ArenaTest, NoMemoryOnlyMeasures) {
  NoMemory memory;
  Arena arena("plan", memory, std::numeric_limits<int64_t>::max());
  EXPECT_EQ(arena.allocate("x", DType::kF32, {int64_t{1} << 40}).raw(), nullptr);
  EXPECT_EQ(arena.high_water_bytes(), int64_t{4} << 40);
}

}  // namespace
}  // namespace longgen
