#include "longgen/model/kv_size.h"

#include "formats_testing.h"
#include "longgen/base/units.h"
#include "longgen/formats/model_file.h"
#include "longgen/pattern/hybrid_spec.h"

namespace longgen::model {
namespace {

using longgen::testing::data_file;

ModelConfig llama2(const char* hybrid) {
  ModelConfig config = formats::ModelFile::open(data_file("llama_2_7b_config.json")).config();
  if (hybrid != nullptr) {
    config.patterns = HybridSpec::parse(hybrid).resolve(config.num_layers, config.num_kv_heads);
  }
  return config;
}

// The figures of the paper's first model: 38.5 % of the full cache.
TEST(KvSize, Llama2AsHybridAt128K) {
  const KvSize size =
      kv_size(llama2("full=middle:12 sparse=local:32,sink:1"), 128 << 10, DType::kBF16);
  EXPECT_EQ(format_bytes(size.bytes), "26.46 GB");
  EXPECT_EQ(format_bytes(size.all_full_bytes), "68.72 GB");
  EXPECT_EQ(size.bytes, (12 * int64_t{131072} + 20 * 2112) * 2 * 32 * 128 * 2);
  ASSERT_EQ(size.ranges.size(), 3u);
  EXPECT_EQ(size.ranges[0].first, 0);
  EXPECT_EQ(size.ranges[0].last, 9);
  EXPECT_EQ(size.ranges[0].kept_max, 2112);
  EXPECT_EQ(size.ranges[1].first, 10);
  EXPECT_EQ(size.ranges[1].last, 21);
  EXPECT_TRUE(size.ranges[1].pattern.is_full());
  EXPECT_EQ(size.ranges[2].last, 31);
  int64_t together = 0;
  for (const KvLayerRange& range : size.ranges) together += range.bytes();
  EXPECT_EQ(together, size.bytes);
}

TEST(KvSize, AllFullIsAllFull) {
  const KvSize size = kv_size(llama2(nullptr), 4096, DType::kF32);
  EXPECT_EQ(size.bytes, size.all_full_bytes);
  EXPECT_EQ(size.bytes, int64_t{4096} * 32 * 2 * 32 * 128 * 4);
  EXPECT_EQ(size.ranges.size(), 1u);
  EXPECT_EQ(kv_size(llama2(nullptr), 0, DType::kF32).bytes, 0);
}

// Heads with offsets of their own keep different numbers of tokens at most lengths.
TEST(KvSize, StridedHeadsAreCountedOneByOne) {
  const ModelConfig config = llama2("full=top:0 sparse=local:1,sink:0,stride:8,offset:heads");
  const int64_t context = 64 * 20 + 5;
  const KvSize size = kv_size(config, context, DType::kBF16);
  int64_t tokens = 0, least = context, most = 0;
  for (int64_t head = 0; head < config.num_kv_heads; ++head) {
    const int64_t kept = config.patterns[0].tokens_kept(context, head);
    tokens += kept;
    least = std::min(least, kept);
    most = std::max(most, kept);
  }
  EXPECT_LT(least, most);
  EXPECT_EQ(size.ranges[0].kept_min, least);
  EXPECT_EQ(size.ranges[0].kept_max, most);
  EXPECT_EQ(size.bytes, tokens * 2 * 128 * 2 * 32);
}

}  // namespace
}  // namespace longgen::model
