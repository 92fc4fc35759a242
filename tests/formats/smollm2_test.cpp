// The real small model: LONGGEN_TEST_MODEL, against the gguf package's values.
#include <gmock/gmock.h>

#include <cmath>
#include <cstdlib>

#include "formats_testing.h"
#include "longgen/formats/model_file.h"

namespace longgen::formats {
namespace {

using namespace longgen::testing;

class SmolLm2 : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* path = std::getenv("LONGGEN_TEST_MODEL");
    if (path != nullptr && std::filesystem::exists(path)) {
      path_ = path;
      return;
    }
    const char* required = std::getenv("LONGGEN_REQUIRE_DATA");
    if (required != nullptr && std::string(required) == "1") {
      FAIL() << "LONGGEN_TEST_MODEL must name SmolLM2's GGUF file";
    }
    GTEST_SKIP() << "LONGGEN_TEST_MODEL does not name SmolLM2's GGUF file";
  }
  std::filesystem::path path_;
};

TEST_F(SmolLm2, Configuration) {
  const auto file = ModelFile::open(path_);
  const auto& config = file.config();
  EXPECT_EQ(config.family, "llama");
  EXPECT_EQ(config.num_layers, 30);
  EXPECT_EQ(config.hidden_size, 576);
  EXPECT_EQ(config.intermediate_size, 1536);
  EXPECT_EQ(config.num_heads, 9);
  EXPECT_EQ(config.num_kv_heads, 3);
  EXPECT_EQ(config.head_dim, 64);
  EXPECT_EQ(config.vocab_size, 49152);
  EXPECT_EQ(config.max_position_embeddings, 8192);
  EXPECT_EQ(config.rope.theta, 100000);
  EXPECT_EQ(config.norm_eps, 1e-5);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_EQ(model::parameter_count(config), 134515008);
  EXPECT_EQ(file.extras().generation.bos_id, 1);
  EXPECT_EQ(file.extras().generation.eos_ids, (std::vector<int64_t>{2}));
  EXPECT_EQ(file.extras().generation.pad_id, 2);
  EXPECT_THAT(file.extras().chat_template, ::testing::HasSubstr("<|im_start|>"));
}

TEST_F(SmolLm2, WeightsEqualTheGgufPackages) {
  const auto file = ModelFile::open(path_);
  HostMemory memory;
  const model::ParameterSet weights("weights", file.config(), DType::kF32, memory);
  file.read_weights(weights);
  const Json golden = Json::parse(read_file(data_file("smollm2_values.json")));
  ASSERT_EQ(golden.size(), 7u);
  for (const auto& [name, expected] : golden.items()) {
    const Tensor& tensor = weights[name];
    const float* values = tensor.data<float>();
    double sum = 0, magnitude = 0, weighted = 0;
    for (int64_t i = 0; i < tensor.numel(); ++i) {
      const double value = values[i];
      sum += value;
      magnitude += std::abs(value);
      weighted += value * std::cos(static_cast<double>(i));
    }
    // The values are equal to the bit; only the order of the fp64 sums differs.
    const double bound = 1e-11 * magnitude;
    EXPECT_NEAR(sum, expected["sum"], bound) << name;
    EXPECT_NEAR(magnitude, expected["magnitude"], bound) << name;
    EXPECT_NEAR(weighted, expected["weighted"], bound) << name;
    for (const auto& element : expected["elements"]) {
      EXPECT_EQ(values[element[0].get<int64_t>()], element[1].get<double>()) << name;
    }
  }
}

}  // namespace
}  // namespace longgen::formats
