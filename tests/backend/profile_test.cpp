#include "longgen/backend/profile/profile.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>

#include "longgen/base/error.h"

namespace longgen {
namespace {

using ::testing::HasSubstr;

TEST(Profile, CountsEveryOperationAndShapeAndChangesNoResult) {
  const auto reference = make_reference_backend();
  const auto profile = make_profiling_backend(*reference);
  EXPECT_EQ(profile->description(), reference->description());
  EXPECT_EQ(&profile->memory(), &reference->memory());

  std::array<double, 6> x = {1, 2, 3, 4, 5, 6}, y{}, expected{};
  std::array<double, 9> w = {1, 0, 0, 0, 2, 0, 0, 0, 3};
  const Tensor in(x.data(), DType::kF64, {2, 3}), weight(w.data(), DType::kF64, {3, 3});
  const Tensor out(y.data(), DType::kF64, {2, 3}), plain(expected.data(), DType::kF64, {2, 3});
  for (int i = 0; i < 3; ++i) profile->linear_forward(out, in, {weight}, {}, false);
  reference->linear_forward(plain, in, {weight}, {}, false);
  EXPECT_EQ(y, expected);
  profile->linear_forward(out.slice(0, 0, 1), in.slice(0, 0, 1), {weight}, {}, false);
  EXPECT_EQ(profile->sum_of_squares(in), 91);

  const auto entries = profile->entries();
  ASSERT_EQ(entries.size(), 3u);
  for (size_t i = 1; i < entries.size(); ++i) {
    EXPECT_GE(entries[i - 1].seconds, entries[i].seconds);
  }
  for (const ProfileEntry& e : entries) {
    if (e.shape != "2 x 3 x 3") continue;
    EXPECT_EQ(e.operation, "linear_forward");
    EXPECT_EQ(e.calls, 3);
    EXPECT_EQ(e.flops, 3 * 2 * 2 * 3 * 3);
    EXPECT_EQ(e.bytes_moved, 3 * 8 * (6 + 6 + 9));
    EXPECT_GT(e.seconds, 0);
  }
  profile->reset();
  EXPECT_TRUE(profile->entries().empty());
}

TEST(Profile, TellsPatternsOfAttentionApart) {
  const auto inner = make_meta_backend(DType::kF32, nullptr);  // takes tensors without data
  const auto profile = make_profiling_backend(*inner);
  const AttentionPattern full = AttentionPattern::full(16);
  const AttentionPattern window{.block_size = 16, .sink_blocks = 0, .local_blocks = 1};
  const AttentionSequence sequence{.row_count = 48, .kv = {.length = 48}};
  for (const AttentionPattern* pattern : {&full, &window}) {
    profile->attention_forward({.out = Tensor(nullptr, DType::kF32, {48, 4, 32}),
                                .q = Tensor(nullptr, DType::kF32, {48, 4, 32}),
                                .sequences = {&sequence, 1},
                                .kv_heads = 2,
                                .pattern = pattern,
                                .scale = 1});
  }
  const auto entries = profile->entries();
  ASSERT_EQ(entries.size(), 2u);
  const bool full_first = entries[0].shape == "48 x 4:2 x 32, full";
  const ProfileEntry &of_full = entries[full_first ? 0 : 1], &sparse = entries[full_first ? 1 : 0];
  EXPECT_EQ(of_full.shape, "48 x 4:2 x 32, full");
  EXPECT_EQ(sparse.shape, "48 x 4:2 x 32, sparse");
  EXPECT_EQ(of_full.flops, 4 * 32 * 4 * (48 * 49 / 2));
  EXPECT_EQ(sparse.flops, 4 * 32 * 4 * 3 * 136);
  EXPECT_EQ(sparse.dense_flops, of_full.flops);
}

TEST(Profile, TableNamesWhatWasRunAndWhatWasOutside) {
  const auto reference = make_reference_backend();
  const auto profile = make_profiling_backend(*reference);
  std::array<double, 4> x{};
  profile->zero(Tensor(x.data(), DType::kF64, {4}));
  const std::string table = profile->table(/*wall_seconds=*/100);
  EXPECT_THAT(table, HasSubstr("zero"));
  EXPECT_THAT(table, HasSubstr("all operations"));
  EXPECT_THAT(table, HasSubstr("outside of them"));
  EXPECT_THAT(table, HasSubstr("100.0 %"));
}

TEST(Profile, AFailedCallIsPassedOnAndNotCounted) {
  const auto reference = make_reference_backend();
  const auto profile = make_profiling_backend(*reference);
  std::array<float, 4> x{};
  const Tensor f32(x.data(), DType::kF32, {4});
  EXPECT_THROW(profile->add(f32, f32, f32), Error);  // the reference computes in f64
  EXPECT_TRUE(profile->entries().empty());
}

}  // namespace
}  // namespace longgen
