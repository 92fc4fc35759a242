// Rows that a prompt's layers need, against following every row that a query sees.
#include "longgen/model/needed_rows.h"

#include <gtest/gtest.h>

#include <set>

#include "longgen/model/decoder.h"
#include "tests/testing/golden_model.h"

namespace longgen::model {
namespace {

ModelConfig config_of(std::vector<AttentionPattern> patterns) {
  ModelConfig config = testing::GoldenModel("llama_gqa").config;
  config.num_layers = static_cast<int64_t>(patterns.size());
  config.patterns = std::move(patterns);
  return config;
}

// By layer, the positions below n whose keys matter to queries at or after asks_from.
std::vector<std::set<int64_t>> followed(const ModelConfig& config, int64_t asks_from, int64_t n) {
  std::vector<std::set<int64_t>> needed(static_cast<size_t>(config.num_layers) + 1);
  for (int64_t i = asks_from; i < n; ++i) needed.back().insert(i);
  for (auto layer = static_cast<size_t>(config.num_layers); layer-- > 0;) {
    for (const int64_t query : needed[layer + 1]) {
      for (int64_t key = 0; key <= query; ++key) {
        if (config.patterns[layer].sees(query, key, 0)) needed[layer].insert(key);
      }
    }
  }
  return needed;
}

TEST(NeededRows, HoldWhatIsFollowedFromQueryToQuery) {
  const AttentionPattern full = AttentionPattern::full(16);
  const AttentionPattern window{.block_size = 16, .sink_blocks = 0, .local_blocks = 3};
  const AttentionPattern sinks{.block_size = 16, .sink_blocks = 2, .local_blocks = 2};
  const AttentionPattern strided{.block_size = 16, .local_blocks = 2, .stride = 4};
  constexpr int64_t kTokens = 400;
  for (const auto& patterns : {std::vector{full, sinks, sinks},
                               {window, window, window},
                               {sinks, window, sinks},
                               {full, strided, sinks},
                               {sinks, full}}) {
    const ModelConfig config = config_of(patterns);
    for (const int64_t asks_from : {0, 1, 15, 16, 47, 48, 100, 255, 256, 257, 398, 399}) {
      const auto needed = needed_rows(config, asks_from);
      const auto expected = followed(config, asks_from, kTokens);
      ASSERT_EQ(needed.size(), expected.size());
      for (size_t layer = 0; layer < needed.size(); ++layer) {
        const NeededRows& rows = needed[layer];
        for (int64_t i = 0; i < kTokens; ++i) {
          const bool has = i < rows.head || i >= rows.tail;
          EXPECT_TRUE(has || !expected[layer].contains(i)) << layer << " " << asks_from << " " << i;
        }
        // No block more than is followed, where patterns are windows and sinks alone.
        const bool tight = layer > 0 && patterns.size() == 3 && patterns[1].stride == 0;
        if (tight && layer < patterns.size() && !expected[layer].empty()) {
          int64_t blocks = 0;
          for (int64_t b = 0; b < kTokens / 16; ++b) {
            blocks +=
                expected[layer].lower_bound(16 * b) != expected[layer].lower_bound(16 * b + 16);
          }
          EXPECT_EQ(rows.count(kTokens), 16 * blocks) << layer << " " << asks_from;
        }
        for (const int64_t begin : {0, 13, 64, 380}) {
          for (const int64_t count : {1, 16, 20}) {
            const RowRange range = rows.of(begin, count);
            ASSERT_TRUE(range.begin >= 0 && range.count >= 0 && range.end() <= count);
            for (int64_t i = 0; i < count; ++i) {
              const bool has = begin + i < rows.head || begin + i >= rows.tail;
              EXPECT_TRUE(!has || (i >= range.begin && i < range.end()));
            }
          }
        }
      }
    }
  }
}

TEST(NeededRows, EarlierQueriesDoWhereEveryRowIsThere) {
  const AttentionPattern sinks{.block_size = 16, .sink_blocks = 1, .local_blocks = 4};
  const ModelConfig config = config_of({AttentionPattern::full(16), sinks, sinks});
  EXPECT_TRUE(needs_no_more_rows(config, 60, 0));
  EXPECT_TRUE(needs_no_more_rows(config, 200, 200));
  EXPECT_TRUE(needs_no_more_rows(config, 200, 300));
  EXPECT_TRUE(needs_no_more_rows(config, 207, 192));
  EXPECT_FALSE(needs_no_more_rows(config, 200, 191));
  EXPECT_FALSE(needs_no_more_rows(config, 200, 0));
}

TEST(NeededRows, FlopsOfAPromptAreThoseOfTheWholeLessWhatIsLeftOut) {
  const AttentionPattern full = AttentionPattern::full(16);
  const ModelConfig dense = config_of({full, full});
  // One token: everything.
  EXPECT_DOUBLE_EQ(count_prompt_flops(dense, 1), count_flops(dense, 1).forward);
  // Of other tokens, the last layer's keys and values only, and no head.
  const auto d = static_cast<double>(dense.hidden_size), n = 100.0;
  const auto q = static_cast<double>(dense.num_heads * dense.head_dim);
  const auto left_out = 2 * q * d + 3 * d * static_cast<double>(dense.intermediate_size) +
                        d * static_cast<double>(dense.vocab_size);
  const double pairs = 99 * 100 / 2;
  EXPECT_DOUBLE_EQ(count_prompt_flops(dense, 100),
                   count_flops(dense, 100).forward - 2 * (n - 1) * left_out - 4 * pairs * q);
}

}  // namespace
}  // namespace longgen::model
