// What is counted, on shapes small enough to count by hand.
#include <gmock/gmock.h>

#include "bench/attention.h"
#include "bench/inference.h"
#include "bench/peaks.h"
#include "bench/products.h"
#include "bench/shapes.h"
#include "bench/training.h"
#include "longgen/base/error.h"
#include "longgen/pattern/hybrid_spec.h"

namespace longgen::bench {
namespace {

const Repeats kOnce{.least = 1, .most = 1, .seconds = 0};

class Cases : public ::testing::Test {
 protected:
  std::unique_ptr<Backend> backend_ = make_cpu_backend(2);
};

TEST_F(Cases, AttentionCountsUnmaskedPairs) {
  AttentionCase c{.q_heads = 4, .kv_heads = 2, .head_dim = 32, .length = 256, .pattern = {}};
  c.dtype = DType::kF32;
  c.pattern = parse_pattern("full", 2);
  const double pairs = 4 * 256 * 257 / 2.0;
  EXPECT_DOUBLE_EQ(measure_attention(c, *backend_, kOnce).flops, 4 * 32 * pairs);
  c.direction = Direction::kBackward;
  EXPECT_DOUBLE_EQ(measure_attention(c, *backend_, kOnce).flops, 10 * 32 * pairs);
  c.direction = Direction::kDecode;
  c.batch = 3;
  const Measurement decode = measure_attention(c, *backend_, kOnce);
  EXPECT_DOUBLE_EQ(decode.flops, 4 * 32 * 4 * 256 * 3.0);
  EXPECT_DOUBLE_EQ(decode.bytes, 3.0 * 256 * 2 * 32 * 2 * 4);
  // Of 16 blocks the last query sees the first one and two of its own.
  c.pattern = parse_pattern("local:2,sink:1,block:16", 2);
  EXPECT_DOUBLE_EQ(measure_attention(c, *backend_, kOnce).bytes, 3.0 * 48 * 2 * 32 * 2 * 4);
  c.q_heads = 3;
  EXPECT_THROW(measure_attention(c, *backend_, kOnce), UsageError);
}

TEST_F(Cases, PatternsAreReadAlone_NamedOrFromAHybridText) {
  EXPECT_TRUE(parse_pattern("full", 1).is_full());
  EXPECT_EQ(parse_pattern("sink-window", 1).local_blocks, 32);
  EXPECT_EQ(parse_pattern("full=middle:10 sparse=local:4,sink:1", 1).to_string(), "local:4,sink:1");
  EXPECT_THROW(parse_pattern("bogus", 1), UsageError);
}

TEST_F(Cases, ProductsOfAModelAreItsDistinctShapes) {
  const auto cases = products_of(shape_config("smollm2-135m"), 8, Product::kForward, DType::kF32);
  std::vector<std::pair<int64_t, int64_t>> shapes;
  for (const ProductCase& c : cases) shapes.emplace_back(c.n, c.k);
  EXPECT_THAT(shapes,
              ::testing::ElementsAre(std::pair(576, 576), std::pair(192, 576), std::pair(1536, 576),
                                     std::pair(576, 1536), std::pair(49152, 576)));
}

TEST_F(Cases, FewRowsReadTheirWeightsFromMemory) {
  for (const Product product : {Product::kForward, Product::kInput, Product::kWeight}) {
    const ProductCase c{.m = 128, .n = 64, .k = 32, .product = product, .dtype = DType::kF32};
    const Measurement m = measure_product(c, *backend_, kOnce);
    EXPECT_DOUBLE_EQ(m.flops, 2.0 * 128 * 64 * 32);
    EXPECT_EQ(m.bytes, 0);
  }
  const ProductCase one{.m = 1, .n = 2048, .k = 4096, .dtype = DType::kF32};
  EXPECT_DOUBLE_EQ(measure_product(one, *backend_, kOnce).bytes, 2048.0 * 4096 * 4);
}

TEST_F(Cases, DecodeReadsWeightsAndLiveKeys) {
  model::ModelConfig config = shape_config("tiny");
  config.patterns = HybridSpec::parse("full=middle:1 sparse=local:2,sink:1,block:16")
                        .resolve(config.num_layers, config.num_kv_heads);
  model::ParameterSet weights("weights", config, DType::kF32, backend_->memory());
  fill_random(weights, 1);
  const ServedModel served{config, weights, *backend_};
  const auto rows = measure_decode(served, {.depths = {0, 1024}, .steps = 4});
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[1].timing.seconds.size(), 4u);
  // Keys and values of two heads of 32 channels: the full layer keeps what came before, in whole
  // blocks of 16; each of two sparse layers three blocks less what the next query no longer sees.
  const double token = 2 * 2 * 32 * 4;
  const double kept = rows[1].bytes - static_cast<double>(weights.bytes());
  EXPECT_GE(kept, token * (1024 + 2 * 32));
  EXPECT_LE(kept, token * (1040 + 2 * 48));
  EXPECT_THROW(measure_decode(served, {.depths = {0, 3}, .steps = 4}), Error);
}

TEST_F(Cases, PrefillAndTrainingCountTheirTokens) {
  const model::ModelConfig config = shape_config("tiny");
  model::ParameterSet weights("weights", config, DType::kF32, backend_->memory());
  fill_random(weights, 1);
  const Measurement prefill = measure_prefill({config, weights, *backend_}, {100, 64}, kOnce);
  EXPECT_EQ(prefill.tokens, 100);
  EXPECT_GT(prefill.resident_bytes, weights.bytes());
  TrainCase c{.tokens = 64, .dtype = DType::kF32};
  const Measurement train = measure_train_step(config, c, *backend_, kOnce);
  EXPECT_EQ(train.tokens, 64);
  EXPECT_DOUBLE_EQ(train.flops, model::count_flops(config, 64).train);
  // ln(512) is 6.2: weights are random, and finite losses say that the step is a real one.
  EXPECT_NEAR(train.parameters.at("last_loss").get<double>(), 6.2, 1.5);
  EXPECT_GT(train.parameters.at("planned_bytes").get<int64_t>(),
            4 * 4 * model::parameter_count(config));
}

TEST(Peaks, AreMeasuredForEverySetUpToTheOneInUse) {
  ThreadPool pool(1);
  const Peaks portable = measure_peaks(pool, CpuIsa::kPortable);
  ASSERT_EQ(portable.arithmetic.size(), 1u);
  EXPECT_GT(portable.flops(DType::kF32), 1e8);  // a processor of the nineties
  EXPECT_EQ(portable.flops(DType::kBF16), portable.flops(DType::kF32));
}

TEST(Shapes, UnknownNamesAreRefusedWithTheList) {
  try {
    shape_config("gpt-9");
    FAIL() << "gpt-9 is no shape";
  } catch (const UsageError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("smollm2-135m"));
  }
  for (const std::string& name : shape_names()) shape_config(name).validate();
}

}  // namespace
}  // namespace longgen::bench
