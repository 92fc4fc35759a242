// The closed forms against brute force over random patterns.
#include "longgen/pattern/pattern.h"

#include <gtest/gtest.h>

#include <set>

#include "longgen/base/error.h"
#include "longgen/base/rng.h"

namespace longgen {
namespace {

constexpr int kCases = 100'000;

struct Case {
  AttentionPattern pattern;
  int64_t heads, head;
};

Case random_case(Rng& rng) {
  Case c;
  c.heads = 1 + static_cast<int64_t>(rng.below(4));
  c.head = static_cast<int64_t>(rng.below(static_cast<uint64_t>(c.heads)));
  AttentionPattern& p = c.pattern;
  p.block_size = int64_t{16} << rng.below(4);
  p.local_blocks =
      rng.below(8) == 0 ? AttentionPattern::kAll : 1 + static_cast<int64_t>(rng.below(9));
  p.sink_blocks = static_cast<int64_t>(rng.below(4));
  p.stride = static_cast<int64_t>(rng.below(7));
  if (p.stride > 0) {
    p.offsets.assign(rng.below(2) == 0 ? 1 : static_cast<size_t>(c.heads), 0);
    for (auto& offset : p.offsets)
      offset = static_cast<int64_t>(rng.below(static_cast<uint64_t>(p.stride)));
  }
  p.validate(c.heads);
  return c;
}

// The definition of design.md, written out again without the class's own helpers.
bool seen(const Case& c, int64_t i, int64_t j) {
  const auto& p = c.pattern;
  if (j > i) return false;
  if (p.local_blocks == AttentionPattern::kAll || i - j < p.local_blocks) return true;
  if (j < p.sink_blocks) return true;
  const int64_t offset = p.offsets[p.offsets.size() == 1 ? 0 : static_cast<size_t>(c.head)];
  return p.stride > 0 && (j + 1 + offset) % p.stride == 0;
}

std::vector<int64_t> expand(const std::vector<BlockRange>& ranges) {
  std::vector<int64_t> blocks;
  for (const auto& range : ranges) {
    const size_t before = blocks.size();
    for (int64_t j = range.begin; j < range.end; j += range.step) blocks.push_back(j);
    EXPECT_EQ(static_cast<int64_t>(blocks.size() - before), range.count());
  }
  return blocks;
}

TEST(PatternTest, BlockRelations) {
  Rng rng(1, 0);
  for (int n = 0; n < kCases; ++n) {
    const Case c = random_case(rng);
    const auto& p = c.pattern;
    const int64_t blocks = 1 + static_cast<int64_t>(rng.below(24));
    const int64_t i0 = static_cast<int64_t>(rng.below(static_cast<uint64_t>(blocks)));
    const int64_t i1 = i0 + 1 + static_cast<int64_t>(rng.below(static_cast<uint64_t>(blocks - i0)));
    std::vector<int64_t> keys, remote;
    for (int64_t j = 0; j < i1; ++j) {
      bool any = false;
      for (int64_t i = i0; i < i1; ++i) any |= seen(c, i, j);
      if (any) keys.push_back(j);
      if (any && j < i0) remote.push_back(j);
    }
    ASSERT_EQ(expand(p.key_blocks(i0, i1, c.head)), keys) << p.to_string();
    ASSERT_EQ(expand(p.remote_blocks(i0 * p.block_size, i1 * p.block_size - 1, c.head)), remote);
    const int64_t key = static_cast<int64_t>(rng.below(static_cast<uint64_t>(i1)));
    std::vector<int64_t> of_key;
    for (int64_t i = i0; i < i1; ++i) {
      if (seen(c, i, key)) of_key.push_back(i);
    }
    ASSERT_EQ(expand({p.query_blocks_of(key, i0, i1, c.head)}), of_key) << p.to_string();
    ASSERT_EQ(p.sees_block(i0, key, c.head), seen(c, i0, key));
  }
}

TEST(PatternTest, Liveness) {
  Rng rng(2, 0);
  for (int n = 0; n < kCases; ++n) {
    const Case c = random_case(rng);
    const auto& p = c.pattern;
    const int64_t blocks = 1 + static_cast<int64_t>(rng.below(24));
    const int64_t position =
        static_cast<int64_t>(rng.below(static_cast<uint64_t>(blocks * p.block_size)));
    int64_t live = 0;
    for (int64_t j = 0; j < blocks; ++j) {
      bool any = false;  // far enough beyond the window to see what lasts
      for (int64_t i = position / p.block_size; i < blocks + 64; ++i) any |= seen(c, i, j);
      ASSERT_EQ(p.is_live(j, position, c.head), any) << p.to_string() << " block " << j;
      live += any ? 1 : 0;
    }
    ASSERT_EQ(p.live_blocks(blocks, position, c.head), live) << p.to_string();
  }
}

TEST(PatternTest, TokensKeptAndPairs) {
  Rng rng(3, 0);
  for (int n = 0; n < kCases / 10; ++n) {
    Case c = random_case(rng);
    const auto& p = c.pattern;
    const int64_t length =
        1 + static_cast<int64_t>(rng.below(static_cast<uint64_t>(24 * p.block_size)));
    const int64_t begin = static_cast<int64_t>(rng.below(static_cast<uint64_t>(length)));
    int64_t pairs = 0, kept = 0;
    for (int64_t q = 0; q < length; ++q) {
      int64_t row = 0;
      const int64_t i = q / p.block_size;
      for (int64_t j = 0; j <= i; ++j) {
        if (seen(c, i, j)) row += j == i ? q - i * p.block_size + 1 : p.block_size;
      }
      if (q >= begin) pairs += row;
      kept = row;
    }
    ASSERT_EQ(p.pairs(begin, length, c.head), pairs)
        << p.to_string() << " " << begin << " " << length;
    ASSERT_EQ(p.tokens_kept(length, c.head), kept) << p.to_string() << " " << length;
  }
}

TEST(PatternTest, SeesIsCausalInsideTheDiagonalBlock) {
  const AttentionPattern p{.block_size = 16, .local_blocks = 1};
  EXPECT_TRUE(p.sees(20, 16, 0));
  EXPECT_TRUE(p.sees(20, 20, 0));
  EXPECT_FALSE(p.sees(20, 21, 0));
  EXPECT_FALSE(p.sees(20, 15, 0));
}

TEST(PatternTest, PublishedBudgets) {
  const AttentionPattern window{.sink_blocks = 1, .local_blocks = 32};
  EXPECT_EQ(window.tokens_kept(131072, 0), 2112);
  const AttentionPattern strided{.sink_blocks = 1, .local_blocks = 16, .stride = 64};
  // 16 local + 1 sink + 31 strided blocks before the window: the 32nd far block (2047) is local.
  EXPECT_EQ(strided.tokens_kept(131072, 0), (16 + 1 + 31) * 64);
  EXPECT_EQ(AttentionPattern::full().pairs(131072, 0), int64_t{131072} * 131073 / 2);
}

TEST(PatternTest, HugeLengthsStayExact) {
  const AttentionPattern p{.sink_blocks = 1, .local_blocks = 32};
  const int64_t length = int64_t{1} << 30;  // each query beyond the ramp adds 33 blocks less a part
  const int64_t ramp = p.pairs(64 * 64, 0);
  const int64_t each = p.pairs(64 * 64, 64 * 65, 0);
  EXPECT_EQ(p.pairs(length, 0), ramp + (length / 64 - 64) * each);
}

TEST(PatternTest, ValidationNamesTheField) {
  AttentionPattern p;
  p.block_size = 48;
  EXPECT_THROW(p.validate(1), Error);
  p = {.local_blocks = 0};
  EXPECT_THROW(p.validate(1), Error);
  p = {.local_blocks = 2, .stride = 4, .offsets = {4}};
  EXPECT_THROW(p.validate(1), Error);
  p = {.local_blocks = 2, .stride = 4, .offsets = {0, 1}};
  EXPECT_THROW(p.validate(3), Error);
  EXPECT_NO_THROW(p.validate(2));
}

}  // namespace
}  // namespace longgen
