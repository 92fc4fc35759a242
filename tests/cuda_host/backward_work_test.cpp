// The work list of the wgmma backward: every visible pair of blocks once, turns as the order says.
#include "longgen/backend/cuda/attention/hopper/backward_work.h"

#include <gtest/gtest.h>

#include <map>

#include "longgen/base/rng.h"
#include "longgen/pattern/pattern.h"

namespace longgen::cuda::hopper {
namespace {

struct Case {
  AttentionPattern pattern;
  BackwardWorkShape shape;
  std::vector<BackwardDocument> documents;
};

int32_t blocks_of(int32_t rows) { return (rows + kBackwardBlock - 1) / kBackwardBlock; }

void check_document(const Case& c, int32_t index, const std::vector<BackwardItem>& items,
                    const std::vector<BackwardFinish>& finishes) {
  const int32_t blocks = blocks_of(c.documents[static_cast<size_t>(index)].length);
  const int32_t tile_blocks = query_rows(c.shape.head_dim) / kBackwardBlock;
  const int32_t tiles = (blocks + tile_blocks - 1) / tile_blocks;
  std::map<std::pair<int32_t, int32_t>, int> met;  // (query block, key block)
  std::vector<int32_t> turns(static_cast<size_t>(tiles), 0);
  std::vector<int32_t> parts(static_cast<size_t>(blocks), 0);
  std::vector<bool> finished(static_cast<size_t>(blocks), false);
  for (const BackwardItem& item : items) {
    if (item.document != index) continue;
    ASSERT_LT(item.first_tile, item.end_tile);
    ASSERT_LE(item.end_tile, tiles);
    for (int w = 0; w < 2; ++w) {
      const int32_t block = item.blocks[w];
      if (block < 0) continue;
      ASSERT_LT(block, blocks);
      ASSERT_FALSE(finished[static_cast<size_t>(block)]);
      ASSERT_EQ(item.part[w], parts[static_cast<size_t>(block)]++);
      finished[static_cast<size_t>(block)] = item.last[w] != 0;
    }
    for (int32_t tile = item.first_tile; tile < item.end_tile; ++tile) {
      ASSERT_EQ(turn_of(item, tile, c.shape.local_blocks, c.shape.head_dim),
                turns[static_cast<size_t>(tile)]++);
      for (int32_t i = tile * tile_blocks; i < std::min((tile + 1) * tile_blocks, blocks); ++i) {
        for (const int32_t j : item.blocks) {
          const bool local = i - j < c.shape.local_blocks;
          if (j >= 0 && j <= i && local == (item.pair < 0)) ++met[{i, j}];
        }
      }
    }
  }
  std::vector<int32_t> finished_queries(static_cast<size_t>(blocks), 0);
  for (const BackwardFinish& f : finishes) {
    if (f.document != index) continue;
    ++finished_queries[static_cast<size_t>(f.block)];
    EXPECT_EQ(f.turns, turns[static_cast<size_t>(f.block / tile_blocks)]);
  }
  for (int32_t i = 0; i < blocks; ++i) {
    EXPECT_GT(turns[static_cast<size_t>(i / tile_blocks)], 0);  // dq of every tile is written
    EXPECT_EQ(finished_queries[static_cast<size_t>(i)], 1);
    EXPECT_TRUE(finished[static_cast<size_t>(i)]);  // and dk, dv of every block
    for (int32_t j = 0; j < blocks; ++j) {
      const auto found = met.find({i, j});
      const bool seen = c.pattern.sees_block(i, j, 0);
      ASSERT_EQ(found == met.end() ? 0 : found->second, seen ? 1 : 0) << i << " " << j;
    }
  }
}

// Blocks in several items have a slot of their own for the sums between them.
void check_slots(const std::vector<BackwardItem>& items, int32_t slots) {
  std::map<int32_t, std::pair<int32_t, int32_t>> owners;
  for (const BackwardItem& item : items) {
    for (int w = 0; w < 2; ++w) {
      if (item.blocks[w] < 0 || (item.part[w] == 0 && item.last[w] != 0)) continue;
      ASSERT_LT(item.slot[w], slots);
      const std::pair<int32_t, int32_t> owner = {item.document, item.blocks[w]};
      ASSERT_EQ(owners.emplace(item.slot[w], owner).first->second, owner);
    }
  }
  EXPECT_EQ(owners.size(), static_cast<size_t>(slots));
}

void check(const Case& c) {
  std::vector<BackwardItem> items;
  std::vector<BackwardFinish> finishes;
  const int32_t slots = append_backward_items(c.shape, c.documents, &items);
  append_backward_finishes(c.shape, c.documents, &finishes);
  check_slots(items, slots);
  for (size_t d = 0; d < c.documents.size(); ++d) {
    if (c.documents[d].length > 0) check_document(c, static_cast<int32_t>(d), items, finishes);
  }
}

TEST(BackwardWork, EveryVisiblePairOnceAndInTurn) {
  Rng rng(7, 0);
  for (int i = 0; i < 400; ++i) {
    const auto below = [&](int64_t n) { return static_cast<int64_t>(rng.uniform() * n); };
    Case c;
    c.pattern.sink_blocks = below(3);
    c.pattern.local_blocks = below(4) == 0 ? AttentionPattern::kAll : 1 + below(20);
    c.pattern.stride = below(2) == 0 ? 0 : 1 + below(9);
    if (c.pattern.stride > 0) c.pattern.offsets = {below(c.pattern.stride)};
    c.shape = {.sink_blocks = c.pattern.sink_blocks,
               .local_blocks = std::min<int64_t>(c.pattern.local_blocks, INT32_MAX),
               .stride = c.pattern.stride,
               .offset = c.pattern.offsets[0],
               .head_dim = below(2) == 0 ? 64 : 128,
               .chunk_tiles = below(2) == 0 ? 1 << 30 : 1 + below(12),
               .remote_tiles = 1 + below(12),
               .remote_lag = below(10)};
    int32_t row = 0;
    for (int64_t d = 0; d <= below(3); ++d) {
      const auto length = static_cast<int32_t>(below(40 * 64));
      c.documents.push_back({row, length});
      row += blocks_of(length) * kBackwardBlock;
    }
    SCOPED_TRACE(i);
    check(c);
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace longgen::cuda::hopper
