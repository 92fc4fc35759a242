// What the families' config.json files say in ways of their own: windows, variants, rotations of a
// part of the head.
#include <gmock/gmock.h>

#include "formats_testing.h"
#include "hf_config_testing.h"
#include "longgen/formats/hf_config.h"
#include "longgen/formats/hf_rope.h"

namespace longgen::formats {
namespace {

using longgen::testing::error_of;
using longgen::testing::tiny_config_json;
using ::testing::HasSubstr;

TestJson of_family(const std::string& model_type) {
  TestJson json = tiny_config_json();
  json["model_type"] = model_type;
  json["sliding_window"] = nullptr;
  return json;
}

int64_t native_window(const TestJson& json) {
  const auto model = read(json).model;
  EXPECT_EQ(model.max_position_embeddings, model.native_window > 0 ? model.native_window : 128);
  return model.native_window;
}

TEST(HfFamiliesConfigTest, WindowsThatDoNotMatterAreFine) {
  EXPECT_EQ(native_window(with("sliding_window", nullptr)), 0);
  EXPECT_EQ(native_window(with("sliding_window", 128)), 0);
  TestJson off = with("sliding_window", 64);
  off["use_sliding_window"] = false;
  EXPECT_EQ(native_window(off), 0);
  EXPECT_EQ(native_window(with("layer_types", {"full_attention", "full_attention"})), 0);
  TestJson qwen = of_family("qwen2");
  qwen["sliding_window"] = 64;  // use_sliding_window is false unless it says otherwise
  EXPECT_EQ(native_window(qwen), 0);
  qwen["use_sliding_window"] = true;
  qwen["max_window_layers"] = 2;  // no layer is left to have it
  EXPECT_EQ(native_window(qwen), 0);
  TestJson mistral = of_family("mistral");
  mistral["sliding_window"] = 4096;
  EXPECT_EQ(native_window(mistral), 0);
}

// Up to the window such a model is one with full attention, so it is read as one of that length.
TEST(HfFamiliesConfigTest, WindowsThatMatterLimitThePositions) {
  EXPECT_EQ(native_window(with("sliding_window", 64)), 64);
  EXPECT_EQ(native_window(with("sliding_window", TestJson::array({4096, 64}))), 64);
  TestJson qwen = of_family("qwen3");
  qwen["sliding_window"] = 64;
  qwen["use_sliding_window"] = true;
  qwen["max_window_layers"] = 1;
  EXPECT_EQ(native_window(qwen), 64);
  qwen["layer_types"] = {"full_attention", "full_attention"};
  EXPECT_EQ(native_window(qwen), 0);
  qwen["layer_types"] = {"full_attention", "sliding_attention"};
  EXPECT_EQ(native_window(qwen), 64);
  qwen["use_sliding_window"] = false;
  EXPECT_THAT(read_error(qwen), HasSubstr("layer_types names sliding layers, but use_sliding"));
  // Transformers takes 4096 where Mistral's configuration does not say.
  TestJson mistral = of_family("mistral");
  mistral.erase("sliding_window");
  mistral["max_position_embeddings"] = 32768;
  EXPECT_EQ(read(mistral).model.native_window, 4096);
  EXPECT_EQ(read(mistral).model.max_position_embeddings, 4096);

  // What is written has no window and so many positions; more are refused unless trained for.
  auto model = read(with("sliding_window", 64)).model;
  const auto written = TestJson::parse(write_hf_config(model, DType::kF32));
  EXPECT_EQ(written["max_position_embeddings"], 64);
  EXPECT_FALSE(written.contains("sliding_window"));
  EXPECT_NO_THROW(model::check_native_window(model, 64));
  const std::string error = error_of([&] { model::check_native_window(model, 65); });
  EXPECT_THAT(error, HasSubstr("65 positions, but this model was trained with a sliding window"));
  EXPECT_THAT(error, HasSubstr("longgen extend"));
  model.max_position_embeddings = 65;
  EXPECT_THAT(error_of([&] { model.validate(); }), HasSubstr("sliding window"));
}

TEST(HfFamiliesConfigTest, FamiliesRefuseTheirVariants) {
  TestJson opt = {{"model_type", "opt"},
                  {"vocab_size", 32},
                  {"hidden_size", 32},
                  {"ffn_dim", 48},
                  {"num_hidden_layers", 1},
                  {"num_attention_heads", 2},
                  {"max_position_embeddings", 64}};
  EXPECT_TRUE(read(opt).model.tie_word_embeddings);
  const auto opt_error = [&](const char* key, const TestJson& value) {
    TestJson json = opt;
    json[key] = value;
    return read_error(json);
  };
  EXPECT_THAT(opt_error("do_layer_norm_before", false), HasSubstr("do_layer_norm_before false"));
  EXPECT_THAT(opt_error("word_embed_proj_dim", 16), HasSubstr("word_embed_proj_dim 16"));
  EXPECT_THAT(opt_error("_remove_final_layer_norm", true), HasSubstr("_remove_final_layer_norm"));
  EXPECT_THAT(opt_error("sliding_window", 16), HasSubstr("sliding_window is not supported"));
  EXPECT_THAT(opt_error("rope_theta", 1e4), HasSubstr("learned positions"));

  TestJson phi = of_family("phi3");
  phi["rope_scaling"] = {{"type", "su"}, {"short_factor", {1.0}}, {"long_factor", {1.0}}};
  EXPECT_THAT(read_error(phi), HasSubstr("type \"su\" is not supported (it changes all"));
  phi["rope_scaling"] = {{"type", "linear"}, {"factor", 2.0}};
  EXPECT_THAT(read_error(phi), HasSubstr("rope_scaling of Phi-3 models is longrope"));
  TestJson mistral = of_family("mistral");
  mistral.erase("num_key_value_heads");
  EXPECT_THAT(read_error(mistral), HasSubstr("num_key_value_heads is missing"));
  TestJson neox = of_family("gpt_neox");
  EXPECT_THAT(read_error(neox), HasSubstr("num_key_value_heads other than"));
  neox.erase("num_key_value_heads");
  neox["layer_norm_eps"] = nullptr;
  EXPECT_THAT(read_error(neox), HasSubstr("layer_norm_eps is missing"));
  neox["layer_norm_eps"] = 1e-5;
  neox["rotary_pct"] = 0.3;  // 4.8 channels
  EXPECT_EQ(read(neox).model.rotary_dim, 4);
  neox["rotary_pct"] = 0.2;  // 3.2: an odd number cannot rotate
  EXPECT_THAT(read_error(neox), HasSubstr("rotary_dim 3 is odd"));
  neox["rope_parameters"] = {{"partial_rotary_factor", 0.5}, {"rope_theta", 1e4}};
  EXPECT_THAT(read_error(neox),
              HasSubstr("partial_rotary_factor is 0.5, but another key says 0.2"));
}

// Rotations of a part of the head, in the spelling before Transformers 5 and since.
TEST(HfFamiliesConfigTest, ReadsPartialRotationsInOldAndNewSpelling) {
  TestJson old_neox = of_family("gpt_neox");
  old_neox.erase("num_key_value_heads");
  old_neox.erase("rope_theta");
  TestJson new_neox = old_neox;
  EXPECT_EQ(read(old_neox).model.rotary_dim, 4);  // a quarter unless it says otherwise
  old_neox["rotary_pct"] = 0.5;
  old_neox["rotary_emb_base"] = 25000;
  new_neox["rope_parameters"] = {
      {"rope_type", "default"}, {"rope_theta", 25000.0}, {"partial_rotary_factor", 0.5}};
  EXPECT_EQ(read(old_neox).model.rotary_dim, 8);
  EXPECT_EQ(read(new_neox).model.rotary_dim, 8);
  EXPECT_EQ(read(old_neox).model.rope, read(new_neox).model.rope);
  EXPECT_EQ(read(old_neox).model.rope.theta, 25000);
  const auto written = TestJson::parse(write_hf_config(read(old_neox).model, DType::kF32));
  EXPECT_EQ(written["rotary_pct"], 0.5);
  EXPECT_EQ(written["rotary_emb_base"], 25000.0);
  EXPECT_EQ(written["rope_parameters"]["partial_rotary_factor"], 0.5);

  TestJson old_phi = of_family("phi3"), new_phi = old_phi;
  old_phi["partial_rotary_factor"] = 0.75;
  new_phi["rope_parameters"] = {{"rope_theta", 1e4}, {"partial_rotary_factor", 0.75}};
  EXPECT_EQ(read(old_phi).model.rotary_dim, 12);
  EXPECT_EQ(read(new_phi).model.rotary_dim, 12);
  // Every share of every head size comes back, however the division rounds.
  auto model = read(old_phi).model;
  for (model.head_dim = 16; model.head_dim <= 512; model.head_dim += 16) {
    for (model.rotary_dim = 2; model.rotary_dim <= model.head_dim; model.rotary_dim += 2) {
      ASSERT_EQ(rotary_channels(model.head_dim, partial_rotary_factor(model)), model.rotary_dim);
    }
  }
}

}  // namespace
}  // namespace longgen::formats
