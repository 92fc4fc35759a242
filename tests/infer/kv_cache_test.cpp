// The cache against brute force: which pages are there, what they hold, and how many bytes that is.
#include "longgen/infer/kv_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "longgen/base/error.h"
#include "longgen/base/rng.h"
#include "longgen/model/kv_size.h"
#include "tests/testing/poisoned_memory.h"

namespace longgen::infer {
namespace {

using testing::PoisonedMemory;

model::ModelConfig config_of(std::vector<AttentionPattern> patterns, int64_t kv_heads,
                             int64_t head_dim) {
  model::ModelConfig config;
  config.num_layers = static_cast<int64_t>(patterns.size());
  config.num_kv_heads = config.num_heads = kv_heads;
  config.head_dim = head_dim;
  config.patterns = std::move(patterns);
  return config;
}

AttentionPattern random_pattern(Rng& rng, int64_t block_size, int64_t kv_heads) {
  AttentionPattern pattern{.block_size = block_size};
  if (rng.below(4) == 0) return pattern;  // full
  pattern.local_blocks = 1 + static_cast<int64_t>(rng.below(5));
  pattern.sink_blocks = static_cast<int64_t>(rng.below(3));
  if (rng.below(2) == 0) pattern.stride = 2 + static_cast<int64_t>(rng.below(5));
  if (pattern.stride > 0) {
    const auto offset = [&] {
      return static_cast<int64_t>(rng.below(static_cast<uint64_t>(pattern.stride)));
    };
    pattern.offsets.assign(rng.below(2) == 0 ? 1 : static_cast<size_t>(kv_heads), 0);
    for (int64_t& o : pattern.offsets) o = offset();
  }
  return pattern;
}

model::ModelConfig random_config(Rng& rng) {
  const int64_t block_size = rng.below(2) == 0 ? 16 : 32;
  const int64_t kv_heads = 1 + static_cast<int64_t>(rng.below(4));
  // Few different patterns, so that groups of several layers come up.
  std::vector<AttentionPattern> kinds, patterns;
  for (int i = 0; i < 3; ++i) kinds.push_back(random_pattern(rng, block_size, kv_heads));
  const auto layers = 1 + rng.below(5);
  for (uint64_t i = 0; i < layers; ++i) patterns.push_back(kinds[rng.below(kinds.size())]);
  return config_of(std::move(patterns), kv_heads, 16);
}

// Whether any later query sees the block, asked of one query after another.
bool needed_later(const AttentionPattern& pattern, int64_t block, int64_t position, int64_t head) {
  constexpr int64_t kFarEnough = 16;  // more blocks than any window or stride here
  const int64_t first = position / pattern.block_size;
  for (int64_t query = first; query < first + kFarEnough; ++query) {
    if (query >= block && pattern.sees_block(query, block, head)) return true;
  }
  return block >= first;
}

// A cache, what must be in it, and a value of its own for every element that is written.
class Checked {
 public:
  Checked(const model::ModelConfig& config, int64_t sequences, int64_t max_tokens)
      : config_(config), cache_(config, DType::kF32, sequences, max_tokens, memory_) {}

  KvCache& cache() { return cache_; }

  int64_t add() {
    const int64_t s = cache_.add_sequence();
    tags_[s] = ++last_tag_;
    return s;
  }
  void remove(int64_t s) {
    cache_.remove_sequence(s);
    tags_.erase(s);
  }
  void extend(int64_t s, int64_t tokens) {
    const int64_t first = cache_.length(s);
    cache_.extend(s, tokens);
    for_each_element(s, [&](int64_t position, float* element, float value) {
      if (position >= first) *element = value;
    });
  }
  void release(int64_t s, int64_t keep_back) {
    cache_.release_before(s, cache_.length(s), keep_back);
    horizons_[s] = std::max<int64_t>(cache_.length(s) - keep_back, 0);
  }

  void truncate(int64_t s, int64_t tokens) {
    cache_.truncate(s, tokens);
    horizons_[s] = tokens;
  }
  // Whether all that queries at or after `position` see of what is before it is there.
  bool reaches(int64_t s, int64_t position) {
    const int64_t block_size = config_.patterns[0].block_size;
    for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
      for (const auto& part : cache_.parts(layer, s)) {
        for (int64_t b = 0; b * block_size < position; ++b) {
          if (part.kv.block_table[b] < 0 &&
              needed_later(config_.patterns[static_cast<size_t>(layer)], b, position,
                           part.head_begin)) {
            return false;
          }
        }
      }
    }
    return true;
  }

  // Pages are there exactly where a later query needs them, and still hold what was written.
  void check(int64_t s) {
    for (int64_t layer = 0; layer < config_.num_layers; ++layer) check_pages(s, layer);
    int64_t wrong = 0;
    for_each_element(
        s, [&](int64_t, const float* element, float value) { wrong += *element != value; });
    EXPECT_EQ(wrong, 0) << "elements overwritten";
  }

 private:
  void check_pages(int64_t s, int64_t layer) {
    const AttentionPattern& pattern = config_.patterns[static_cast<size_t>(layer)];
    std::multiset<int64_t> heads;
    for (const auto& part : cache_.parts(layer, s)) {
      ASSERT_EQ(part.kv.length, cache_.length(s));
      for (int64_t head = part.head_begin; head < part.head_begin + part.head_count; ++head) {
        heads.insert(head);
        for (int64_t b = 0; b < part.kv.block_table_size; ++b) {
          ASSERT_EQ(part.kv.block_table[b] >= 0, needed_later(pattern, b, horizons_[s], head))
              << "layer " << layer << " head " << head << " block " << b << " horizon "
              << horizons_[s];
        }
      }
    }
    std::multiset<int64_t> all;
    for (int64_t head = 0; head < config_.num_kv_heads; ++head) all.insert(head);
    EXPECT_EQ(heads, all);
  }

  template <typename Visit>
  void for_each_element(int64_t s, const Visit& visit) {
    const int64_t block_size = config_.patterns[0].block_size;
    for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
      for (const auto& part : cache_.parts(layer, s)) {
        for (int64_t p = 0; p < part.kv.length; ++p) {
          const int32_t page = part.kv.block_table[p / block_size];
          if (page < 0) continue;
          for (int64_t h = 0; h < part.head_count; ++h) {
            const int64_t at = page * part.kv.page_stride + h * part.kv.head_stride +
                               p % block_size * part.kv.token_stride;
            for (int64_t c = 0; c < config_.head_dim; ++c) {
              const int64_t where = ((layer * 8 + part.head_begin + h) * 4096 + p) * 16 + c;
              const auto value =
                  static_cast<float>(tags_[s] * 1000003 % 997 * 16381 + where % 16369);
              visit(p, static_cast<float*>(part.kv.keys) + at + c, value);
              visit(p, static_cast<float*>(part.kv.values) + at + c, -value - 1);
            }
          }
        }
      }
    }
  }

  model::ModelConfig config_;
  PoisonedMemory memory_;
  KvCache cache_;
  std::map<int64_t, int64_t> tags_, horizons_;
  int64_t last_tag_ = 0;
};

TEST(KvCache, HoldsExactlyWhatLaterQueriesSee) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(seed);
    Rng rng(seed, 1);
    const model::ModelConfig config = random_config(rng);
    constexpr int64_t kMaxTokens = 400;
    Checked checked(config, 2, kMaxTokens);
    const int64_t a = checked.add(), b = checked.add();
    for (int step = 0; step < 12; ++step) {
      const int64_t s = rng.below(2) == 0 ? a : b;
      const int64_t room = kMaxTokens - checked.cache().length(s);
      checked.extend(s, std::min(room, static_cast<int64_t>(rng.below(80))));
      checked.release(s, 0);
      checked.check(a);
      checked.check(b);
      const int64_t expected = kv_bytes(config, DType::kF32, checked.cache().length(a)).live +
                               kv_bytes(config, DType::kF32, checked.cache().length(b)).live;
      EXPECT_EQ(checked.cache().bytes_in_use(), expected);
      EXPECT_EQ(checked.cache().all_full_bytes(),
                kv_bytes(config, DType::kF32, checked.cache().length(a)).all_full +
                    kv_bytes(config, DType::kF32, checked.cache().length(b)).all_full);
      EXPECT_GE(checked.cache().peak_bytes_in_use(), expected);
      EXPECT_GE(checked.cache().bytes_reserved(), expected);
    }
    if (HasFatalFailure()) return;
  }
}

TEST(KvCache, KeepsBackWhatIsAskedFor) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    Rng rng(seed, 2);
    Checked checked(random_config(rng), 1, 400);
    const int64_t s = checked.add();
    for (int step = 0; step < 6; ++step) {
      checked.extend(s, static_cast<int64_t>(rng.below(60)));
      checked.release(s, 40);
      checked.check(s);
    }
    checked.release(s, 0);
    checked.check(s);
  }
}

TEST(KvCache, IsCutBackAsFarAsItsPagesReach) {
  int64_t whole = 0, less = 0;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(seed);
    Rng rng(seed, 4);
    constexpr int64_t kMaxTokens = 400;
    Checked checked(random_config(rng), 1, kMaxTokens);
    const int64_t s = checked.add();
    for (int step = 0; step < 8; ++step) {
      const int64_t room = kMaxTokens - checked.cache().length(s);
      checked.extend(s, std::min(room, static_cast<int64_t>(rng.below(120))));
      checked.release(s, 0);
      const int64_t length = checked.cache().length(s);
      const auto asked = static_cast<int64_t>(rng.below(static_cast<uint64_t>(length) + 1));
      const int64_t usable = checked.cache().usable_prefix(s, asked);
      ASSERT_LE(usable, asked);
      EXPECT_TRUE(checked.reaches(s, usable));
      for (int64_t p = usable + 1; p <= asked; ++p) EXPECT_FALSE(checked.reaches(s, p)) << p;
      if (usable < asked) {
        EXPECT_THROW(checked.cache().truncate(s, asked), Error);
      }
      (usable < asked ? less : whole) += 1;
      checked.truncate(s, usable);
      EXPECT_EQ(checked.cache().length(s), usable);
      checked.check(s);
    }
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(whole, 50);
  EXPECT_GT(less, 50);
}

TEST(KvCache, ReusesPagesOfFinishedSequences) {
  Rng rng(3, 3);
  Checked checked(random_config(rng), 2, 256);
  const int64_t first = checked.add();
  checked.extend(first, 256);
  const int64_t reserved = checked.cache().bytes_reserved();
  checked.remove(first);
  EXPECT_EQ(checked.cache().bytes_in_use(), 0);
  const int64_t second = checked.add();
  checked.extend(second, 200);
  checked.release(second, 0);
  checked.check(second);
  EXPECT_EQ(checked.cache().bytes_reserved(), reserved);
}

TEST(KvCache, RefusesWhatDoesNotFit) {
  HostMemory memory;
  const auto config = config_of({AttentionPattern::full(16)}, 1, 16);
  KvCache cache(config, DType::kF32, 1, 100, memory);
  EXPECT_THROW(cache.length(0), Error);
  const int64_t s = cache.add_sequence();
  EXPECT_THROW(cache.add_sequence(), Error);
  cache.extend(s, 100);
  EXPECT_THROW(cache.extend(s, 1), Error);
  EXPECT_THROW(cache.length(1), Error);
  EXPECT_THROW(KvCache(config, DType::kF32, 0, 100, memory), Error);
}

TEST(KvGroups, CoverEveryLayerAndHeadOnce) {
  for (uint64_t seed = 0; seed < 500; ++seed) {
    Rng rng(seed, 4);
    const model::ModelConfig config = random_config(rng);
    std::map<std::pair<int64_t, int64_t>, int> covered;
    for (const KvGroup& group : kv_groups(config)) {
      EXPECT_FALSE(group.layers.empty());
      EXPECT_TRUE(std::is_sorted(group.layers.begin(), group.layers.end()));
      for (const int64_t layer : group.layers) {
        const AttentionPattern& pattern = config.patterns[static_cast<size_t>(layer)];
        for (int64_t head = group.head_begin; head < group.head_begin + group.head_count; ++head) {
          ++covered[{layer, head}];
          // The group's pattern is the layer's, as this head has it.
          for (int64_t query = 0; query < 12; ++query) {
            for (int64_t key = 0; key <= query; ++key) {
              ASSERT_EQ(group.pattern.sees_block(query, key, 0),
                        pattern.sees_block(query, key, head));
            }
          }
        }
      }
    }
    ASSERT_EQ(covered.size(), static_cast<size_t>(config.num_layers * config.num_kv_heads));
    for (const auto& [place, times] : covered)
      ASSERT_EQ(times, 1) << place.first << " " << place.second;
  }
}

model::ModelConfig llama2_7b(const AttentionPattern& sparse) {
  std::vector<AttentionPattern> patterns(32, sparse);
  std::fill(patterns.begin() + 10, patterns.begin() + 22, AttentionPattern::full());
  return config_of(std::move(patterns), 32, 128);
}

// LongGen, arXiv 2410.01485, with 12 of 32 layers full and 2,112 tokens kept in the others.
TEST(KvCache, HasThePublishedSizeOfLlama2At128K) {
  const auto config = llama2_7b({.sink_blocks = 1, .local_blocks = 32});
  constexpr int64_t kTokens = 128 << 10;
  NoMemory nothing;
  KvCache cache(config, DType::kBF16, 1, kTokens, nothing);
  const int64_t s = cache.add_sequence();
  for (int64_t done = 0; done < kTokens; done += 64) {
    cache.extend(s, 64);
    if (done + 64 < kTokens) cache.release_before(s, cache.length(s));
  }
  // 12 * 131072 + 20 * 2112 tokens of 2 * 32 * 128 * 2 bytes: 26.46 GB against 68.72 GB.
  EXPECT_EQ(cache.bytes_in_use(), (12 * 131072 + 20 * 2112) * int64_t{16384});
  EXPECT_EQ(cache.bytes_in_use(), 26461863936);
  EXPECT_EQ(cache.all_full_bytes(), 68719476736);
  EXPECT_EQ(cache.bytes_in_use(), model::kv_size(config, kTokens, DType::kBF16).bytes);
  // Past the last token the oldest of the local blocks is not needed any more.
  cache.release_before(s, kTokens);
  EXPECT_EQ(cache.bytes_in_use(), (12 * 131072 + 20 * 2048) * int64_t{16384});
}

}  // namespace
}  // namespace longgen::infer
