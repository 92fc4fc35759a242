// What the Hopper forward kernel is told: tiles, and its walk over key blocks, on the host.
#include <gtest/gtest.h>

#include <random>
#include <set>
#include <vector>

#include "longgen/backend/cuda/attention/hopper/decode_args.h"
#include "longgen/backend/cuda/attention/hopper/forward_plan.h"
#include "longgen/backend/cuda/attention/hopper/key_walk.cuh"
#include "longgen/pattern/pattern.h"

namespace longgen::cuda::hopper {
namespace {

TEST(HopperForward, TilesCoverQueriesFromBlockBoundaries) {
  std::vector<SequenceArgs> sequences(4);
  const int64_t starts[] = {0, 130, 64, 5}, counts[] = {1, 500, 0, 59};
  for (size_t i = 0; i < 4; ++i) {
    sequences[i].first_position = starts[i];
    sequences[i].row_count = counts[i];
  }
  std::vector<std::set<int>> covered(4);
  int32_t before = INT32_MAX;
  for (const Tile& tile : forward_tiles(sequences, 192)) {
    EXPECT_EQ(tile.first % kBlock, 0);
    EXPECT_LE(tile.first, before);  // those with the most keys first
    before = tile.first;
    for (int p = tile.first; p < tile.first + 192; ++p) {
      EXPECT_TRUE(covered[static_cast<size_t>(tile.sequence)].insert(p).second);
    }
  }
  EXPECT_TRUE(covered[2].empty());
  for (size_t i = 0; i < 4; ++i) {
    for (int64_t p = starts[i]; p < starts[i] + counts[i]; ++p) {
      EXPECT_TRUE(covered[i].contains(static_cast<int>(p))) << i << " " << p;
    }
    if (!covered[i].empty()) {  // no tile without a query
      EXPECT_GT(*covered[i].begin() + 192, starts[i]);
      EXPECT_LT(*covered[i].rbegin() - 191, starts[i] + counts[i]);
    }
  }
}

// Against AttentionPattern, block by block: what the walk visits, in which order, and what each
// warpgroup is told of it. The kernel counts on a warpgroup's first block being its diagonal, and
// on not passing over more pairs than there are other warpgroups.
TEST(HopperForward, WalkVisitsWhatThePatternSees) {
  std::mt19937 random(7);
  const auto draw = [&](int low, int high) {
    return std::uniform_int_distribution<int>(low, high)(random);
  };
  for (int trial = 0; trial < 3000; ++trial) {
    const int groups = draw(2, 3), query_block = draw(0, 40), used = draw(1, groups);
    AttentionPattern pattern{.sink_blocks = draw(0, 3), .local_blocks = draw(1, 8)};
    if (draw(0, 4) == 0) pattern.local_blocks = AttentionPattern::kAll;
    if (draw(0, 1) == 0) pattern.stride = draw(1, 9);
    const int32_t offset = pattern.stride == 0 ? 0 : draw(0, static_cast<int>(pattern.stride) - 1);
    pattern.offsets = {offset};
    PatternArgs args{
        .sink_blocks = static_cast<int32_t>(pattern.sink_blocks),
        .local_blocks = pattern.is_full() ? INT32_MAX : static_cast<int32_t>(pattern.local_blocks),
        .stride = static_cast<int32_t>(pattern.stride),
        .offsets = &offset};
    const BlockPattern device(args, 0);
    const int last = query_block + used - 1;
    std::vector<int> want, got;
    for (int j = last; j >= 0; --j) {
      for (int i = query_block; i <= last; ++i) {
        if (pattern.sees_block(i, j, 0)) {
          want.push_back(j);
          break;
        }
      }
    }
    KeyWalk walk(device, query_block, last);
    for (int block = walk.next(); block >= 0; block = walk.next()) got.push_back(block);
    ASSERT_EQ(got, want) << pattern.to_string() << " " << query_block << " " << used;
    for (int i = query_block; i <= last; ++i) {
      int passed_over = 0;
      for (size_t n = 0; n < got.size(); n += 2) {
        const int first = got[n], second = n + 1 < got.size() ? got[n + 1] : -1;
        const int bits = step_bits(device, walk, i, first, second);
        EXPECT_EQ((bits & kSeesFirst) != 0, pattern.sees_block(i, first, 0));
        EXPECT_EQ((bits & kSeesSecond) != 0, second >= 0 && pattern.sees_block(i, second, 0));
        EXPECT_EQ((bits & kFirstIsDiagonal) != 0, first == i);
        EXPECT_EQ((bits & kSecondIsDiagonal) != 0, second == i);
        if ((bits & kSeesBoth) == 0) ++passed_over;
      }
      EXPECT_LT(passed_over, groups) << pattern.to_string() << " " << i - query_block;
      EXPECT_TRUE(pattern.sees_block(i, i, 0));
    }
  }
}

TEST(HopperForward, OtherHeadAndBlockSizesStayOnTheOtherKernels) {
  ForwardArgs call;
  const auto takes = [&](int head_dim, int shift) {
    call.head_dim = head_dim;
    call.pattern.block_shift = shift;
    return takes_forward(call);
  };
  EXPECT_TRUE(takes(64, 6));
  EXPECT_TRUE(takes(128, 6));
  EXPECT_FALSE(takes(96, 6));
  EXPECT_FALSE(takes(128, 5));
}

TEST(HopperDecode, PiecesFillTheProcessorsButHaveTwoBlocks) {
  const auto expect = [](int64_t heads, int64_t key_blocks, int count, bool clustered) {
    const DecodePieces pieces = decode_pieces(heads, key_blocks, 132);
    EXPECT_EQ(pieces.count, count) << heads << " " << key_blocks;
    EXPECT_EQ(pieces.clustered, clustered) << heads << " " << key_blocks;
  };
  expect(32, 2048, 4, false);
  expect(8, 2048, 16, false);
  expect(1, 1 << 20, kMostPieces, false);
  expect(500, 2048, 1, false);
  expect(32, 33, 3, true);
  expect(8, 33, 8, true);
  expect(8, 9, 4, true);
  expect(1, 1, 1, false);
  expect(0, 10, 1, false);
}

TEST(HopperDecode, TakesSixteenPackedRows) {
  ForwardArgs call{.group = 4, .head_dim = 128};
  EXPECT_TRUE(takes_decode(call, 4));
  EXPECT_FALSE(takes_decode(call, 5));
  call.head_dim = 80;
  EXPECT_FALSE(takes_decode(call, 1));
  call.head_dim = 64;
  call.pattern.block_shift = 5;
  EXPECT_FALSE(takes_decode(call, 1));
}

}  // namespace
}  // namespace longgen::cuda::hopper
