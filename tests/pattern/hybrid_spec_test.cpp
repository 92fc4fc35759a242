#include "longgen/pattern/hybrid_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "longgen/base/error.h"

namespace longgen {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<int64_t> full_layers(std::string_view text, int64_t layers) {
  std::vector<int64_t> full;
  const auto patterns = HybridSpec::parse(text).resolve(layers, 1);
  for (int64_t i = 0; i < layers; ++i) {
    if (patterns[i].is_full()) full.push_back(i);
  }
  return full;
}

TEST(HybridSpecTest, Placements) {
  const auto middle = full_layers("full=middle:12 sparse=sink-window", 32);
  EXPECT_EQ(middle.front(), 10);
  EXPECT_EQ(middle.back(), 21);
  EXPECT_EQ(middle.size(), 12u);
  EXPECT_THAT(full_layers("full=middle:2 sparse=sink-window", 5), ElementsAre(1, 2));
  EXPECT_THAT(full_layers("full=top:2 sparse=sink-window", 5), ElementsAre(3, 4));
  EXPECT_THAT(full_layers("full=bottom:2 sparse=sink-window", 5), ElementsAre(0, 1));
  EXPECT_THAT(full_layers("full=interleaved:2 sparse=sink-window", 8), ElementsAre(2, 6));
  EXPECT_THAT(full_layers("full=0,5-7,6 sparse=sink-window", 8), ElementsAre(0, 5, 6, 7));
  EXPECT_THAT(full_layers("full=middle:0 sparse=sink-window", 4), ElementsAre());
}

TEST(HybridSpecTest, FractionsRoundHalfUp) {
  EXPECT_EQ(full_layers("full=middle:1/3 sparse=sink-window", 32).size(), 11u);   // 10.67
  EXPECT_EQ(full_layers("full=middle:1/2 sparse=sink-window", 5).size(), 3u);     // 2.5
  EXPECT_EQ(full_layers("full=middle:0.33 sparse=sink-window", 30).size(), 10u);  // 9.9
  EXPECT_EQ(full_layers("full=middle:.5 sparse=sink-window", 3).size(), 2u);      // 1.5
}

TEST(HybridSpecTest, SparsePatterns) {
  const auto window = HybridSpec::parse("sparse=sink-window full=middle:1").resolve(4, 2);
  EXPECT_EQ(window[0], (AttentionPattern{.sink_blocks = 1, .local_blocks = 32}));
  const auto strided =
      HybridSpec::parse("full=middle:1 sparse=local:4,stride:8,offset:heads,block:16")
          .resolve(4, 4);
  EXPECT_THAT(strided[0].offsets, ElementsAre(0, 2, 4, 6));
  EXPECT_EQ(strided[0].block_size, 16);
  EXPECT_EQ(strided[1].block_size, 16);  // the full layer shares the block size
  EXPECT_TRUE(strided[1].is_full());
}

TEST(HybridSpecTest, ErrorsNameTheWord) {
  const auto message = [](std::string_view text) {
    try {
      HybridSpec::parse(text).resolve(8, 3);
    } catch (const UsageError& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  EXPECT_THAT(message("full=centre:3 sparse=sink-window"), HasSubstr("centre"));
  EXPECT_THAT(message("full=middle:x sparse=sink-window"), HasSubstr("\"x\""));
  EXPECT_THAT(message("full=middle:3"), HasSubstr("sparse="));
  EXPECT_THAT(message("full=middle:3 sparse=sinkwindow"), HasSubstr("sinkwindow"));
  EXPECT_THAT(message("full=middle:3 sparse=sink:1"), HasSubstr("local:N"));
  EXPECT_THAT(message("full=middle:9 sparse=sink-window"), HasSubstr("9 full layers"));
  EXPECT_THAT(message("full=8 sparse=sink-window"), HasSubstr("layer 8"));
  EXPECT_THAT(message("full=5-3 sparse=sink-window"), HasSubstr("5-3"));
  EXPECT_THAT(message("full=middle:3/2 sparse=sink-window"), HasSubstr("fraction"));
  EXPECT_THAT(message("full=middle:3 sparse=local:2,block:48"), HasSubstr("48"));
  EXPECT_THAT(message("full=middle:3 sparse=local:0"), HasSubstr("local"));
  EXPECT_THAT(message("full=middle:3 sparse=local:2,stride:4,offset:4"), HasSubstr("offset 4"));
  EXPECT_THAT(message("full=middle:99999999999999999999 sparse=local:2"),
              HasSubstr("whole number"));
}

}  // namespace
}  // namespace longgen
