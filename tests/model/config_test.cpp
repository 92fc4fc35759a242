#include "longgen/model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "longgen/model/weights.h"
#include "tests/testing/golden_model.h"

namespace longgen::model {
namespace {

using longgen::testing::GoldenModel;
using ::testing::HasSubstr;

ModelConfig tiny() {
  ModelConfig c;
  c.vocab_size = 61;
  c.hidden_size = 32;
  c.intermediate_size = 48;
  c.num_layers = 2;
  c.num_heads = 4;
  c.num_kv_heads = 2;
  c.head_dim = 16;
  c.rotary_dim = 16;
  c.max_position_embeddings = 128;
  set_full_attention(c);
  return c;
}

TEST(Config, ValidateNamesTheField) {
  tiny().validate();
  const std::vector<std::pair<std::string, std::function<void(ModelConfig&)>>> cases = {
      {"vocab_size", [](auto& c) { c.vocab_size = 0; }},
      {"vocab_size", [](auto& c) { c.vocab_size = int64_t{1} << 40; }},
      {"hidden_size", [](auto& c) { c.hidden_size = -1; }},
      {"intermediate_size", [](auto& c) { c.intermediate_size = int64_t{1} << 33; }},
      {"num_hidden_layers", [](auto& c) { c.num_layers = 5000; }},
      {"num_key_value_heads", [](auto& c) { c.num_kv_heads = 3; }},
      {"num_key_value_heads", [](auto& c) { c.num_kv_heads = 8; }},
      {"head_dim", [](auto& c) { c.head_dim = 24; }},
      {"head_dim", [](auto& c) { c.head_dim = 0; }},
      {"max_position_embeddings", [](auto& c) { c.max_position_embeddings = 0; }},
      {"norm_eps", [](auto& c) { c.norm_eps = 0; }},
      {"norm_eps", [](auto& c) { c.norm_eps = NAN; }},
      {"rotary_dim", [](auto& c) { c.rotary_dim = 18; }},
      {"rotary_dim", [](auto& c) { c.rotary_dim = 5; }},
      {"theta", [](auto& c) { c.rope.theta = -1; }},
      {"rope factor",
       [](auto& c) {
         c.rope.kind = RopeKind::kLinear;
         c.rope.factor = 0;
       }},
      {"original_max_position_embeddings",
       [](auto& c) {
         c.rope.kind = RopeKind::kYarn;
         c.rope.factor = 2;
       }},
      {"high_freq_factor",
       [](auto& c) {
         c.rope.kind = RopeKind::kLlama3;
         c.rope.original_max_position_embeddings = 64;
         c.rope.high_freq_factor = 1;
       }},
      {"patterns", [](auto& c) { c.patterns.pop_back(); }},
      {"layer 1", [](auto& c) { c.patterns[1].block_size = 32; }},
      {"layer 1", [](auto& c) { c.patterns[1].local_blocks = 0; }},
      {"learned_position_offset",
       [](auto& c) {
         c.position = PositionKind::kLearned;
         c.learned_position_offset = -1;
       }},
  };
  for (const auto& [field, change] : cases) {
    ModelConfig c = tiny();
    change(c);
    try {
      c.validate();
      ADD_FAILURE() << "accepted: " << field;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr(field));
    }
  }
}

TEST(Rope, DefaultTableIsCosAndSin) {
  const auto table = rope_table({.theta = 100}, 4, 3);
  ASSERT_EQ(table.size(), 12u);
  for (int p = 0; p < 3; ++p) {
    const auto row = table.begin() + p * 4;
    EXPECT_EQ(row[0], static_cast<float>(std::cos(1.0 * p)));
    EXPECT_EQ(row[1], static_cast<float>(std::cos(0.1 * p)));
    EXPECT_EQ(row[2], static_cast<float>(std::sin(1.0 * p)));
    EXPECT_EQ(row[3], static_cast<float>(std::sin(0.1 * p)));
  }
}

TEST(Rope, LinearScalingStretchesPositions) {
  const auto plain = rope_table({.theta = 100}, 8, 5);
  const auto scaled = rope_table({.theta = 100, .kind = RopeKind::kLinear, .factor = 4}, 8, 17);
  for (size_t c = 0; c < 8; ++c) EXPECT_EQ(scaled[16 * 8 + c], plain[4 * 8 + c]);
}

// Yarn's default factor is 0.1 ln(factor) + 1, and cos(0) = 1.
TEST(Rope, YarnAttentionFactor) {
  RopeConfig rope{.kind = RopeKind::kYarn, .factor = 4, .original_max_position_embeddings = 64};
  EXPECT_FLOAT_EQ(rope_table(rope, 16, 1)[0], static_cast<float>(0.1 * std::log(4.0) + 1));
  rope.attention_factor = 1.5;
  EXPECT_EQ(rope_table(rope, 16, 1)[0], 1.5f);
}

TEST(Rope, ExtendedTheta) {
  EXPECT_NEAR(extended_rope_theta(1e4, 4096, 131072), 5.12e6, 0.005e6);
  EXPECT_NEAR(extended_rope_theta(1e5, 8192, 65536), 4.22e6, 0.005e6);
}

TEST(Parameters, HaveTheGoldenNamesAndShapes) {
  for (const std::string& name : longgen::testing::golden_cases()) {
    const GoldenModel golden(name);
    const formats::SafetensorsFile file(std::string(LONGGEN_SOURCE_DIR) + "/tests/golden/models/" +
                                        name + ".safetensors");
    size_t stored = 0;
    for (const auto& entry : file.tensors()) stored += entry.name.starts_with("param.");
    const auto specs = param_specs(golden.config);
    EXPECT_EQ(specs.size(), stored) << name;
    int64_t count = 0;
    for (const ParamSpec& spec : specs) {
      EXPECT_EQ(file["param." + spec.name].shape, spec.shape) << spec.name;
      EXPECT_EQ(spec.decay, spec.shape.size() == 2) << spec.name;
      count += spec.numel();
    }
    EXPECT_EQ(parameter_count(golden.config), count);
  }
}

TEST(Parameters, FindByName) {
  NoMemory nothing;
  const ParameterSet weights("weights", tiny(), DType::kF32, nothing);
  EXPECT_EQ(weights["model.layers.1.self_attn.k_proj.weight"].shape_string(), "[32, 32] f32");
  EXPECT_FALSE(weights.find("lm_head.bias").defined());
  EXPECT_EQ(weights.index_of("nothing"), -1);
  EXPECT_THROW(weights["nothing"], Error);
  EXPECT_EQ(weights.index_of("model.embed_tokens.weight"), 0);
}

TEST(Initialize, IsTheSameForEveryType) {
  HostMemory memory;
  ModelConfig c = tiny();
  c.norm_bias = true;
  const ParameterSet f64("weights", c, DType::kF64, memory), f32("weights", c, DType::kF32, memory),
      b16("weights", c, DType::kBF16, memory), other("weights", c, DType::kF32, memory);
  for (const ParameterSet* weights : {&f64, &f32, &b16}) initialize(c, 7, *weights);
  initialize(c, 8, other);
  for (size_t i = 0; i < f64.specs().size(); ++i) {
    const auto a = longgen::testing::to_doubles(f64.tensors()[i]);
    const auto b = longgen::testing::to_doubles(f32.tensors()[i]);
    const auto h = longgen::testing::to_doubles(b16.tensors()[i]);
    EXPECT_EQ(a, b);
    for (size_t j = 0; j < a.size(); ++j) {
      EXPECT_EQ(h[j], static_cast<double>(bf16(static_cast<float>(a[j]))));
    }
    const std::string& name = f64.specs()[i].name;
    if (f64.specs()[i].shape.size() == 2) {
      EXPECT_NE(b, longgen::testing::to_doubles(other.tensors()[i])) << name;
      double square = 0;
      for (const double x : a) square += x * x;
      const bool ends_branch = name.find("o_proj") != name.npos || name.find("down") != name.npos;
      // Two layers: 1 / sqrt(4). At least 1024 elements: a standard error of 2.2 % or less.
      EXPECT_NEAR(std::sqrt(square / static_cast<double>(a.size())), ends_branch ? 0.01 : 0.02,
                  ends_branch ? 0.001 : 0.002)
          << name;
    } else {
      EXPECT_EQ(a, std::vector<double>(a.size(), name.ends_with(".bias") ? 0 : 1)) << name;
    }
  }
}

}  // namespace
}  // namespace longgen::model
