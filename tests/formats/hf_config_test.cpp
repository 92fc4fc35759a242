#include "longgen/formats/hf_config.h"

#include <gmock/gmock.h>

#include <cmath>

#include "formats_testing.h"
#include "hf_config_testing.h"
#include "longgen/formats/hf_rope.h"
#include "longgen/pattern/hybrid_spec.h"

namespace longgen::formats {
namespace {

using longgen::testing::data_file;
using longgen::testing::error_of;
using longgen::testing::read_file;
using longgen::testing::tiny_config;
using longgen::testing::tiny_config_json;
using model::RopeKind;
using ::testing::HasSubstr;

// A hybrid of the tiny model as written: layer 0 sparse, layer 1 full.
TestJson hybrid_json() {
  auto config = tiny_config();
  config.patterns[0].local_blocks = 4;
  config.patterns[0].sink_blocks = 1;
  return TestJson::parse(write_hf_config(config, DType::kF32));
}

TEST(HfConfigTest, ReadsLlama2) {
  const Json json = Json::parse(read_file(data_file("llama_2_7b_config.json")));
  const HfConfig config = read_hf_config(json, "config.json");
  EXPECT_EQ(config.model.family, "llama");
  EXPECT_EQ(config.model.num_layers, 32);
  EXPECT_EQ(config.model.head_dim, 128);
  EXPECT_EQ(config.model.num_kv_heads, 32);
  EXPECT_EQ(config.model.norm_eps, 1e-5);
  EXPECT_EQ(config.model.rope.theta, 10000);
  EXPECT_EQ(config.model.rope.kind, RopeKind::kDefault);
  EXPECT_FALSE(config.model.tie_word_embeddings);
  EXPECT_EQ(config.dtype, DType::kF16);
  EXPECT_EQ(model::parameter_count(config.model), 6738415616);
}

TEST(HfConfigTest, DefaultsWhereKeysAreAbsentOrNull) {
  TestJson json = tiny_config_json();
  for (const char* key : {"num_key_value_heads", "rms_norm_eps", "rope_theta",
                          "tie_word_embeddings", "torch_dtype"}) {
    json.erase(key);
  }
  json["head_dim"] = nullptr;
  json["hidden_act"] = nullptr;
  const HfConfig config = read(json);
  EXPECT_EQ(config.model.num_kv_heads, 2);
  EXPECT_EQ(config.model.norm_eps, 1e-6);
  EXPECT_EQ(config.model.rope.theta, 10000);
  EXPECT_EQ(config.model.head_dim, 16);
  EXPECT_EQ(config.model.activation, Activation::kSilu);
  EXPECT_FALSE(config.dtype.has_value());
}

TEST(HfConfigTest, ReadsSwitches) {
  TestJson json = tiny_config_json(true);
  json["attention_bias"] = true;
  json["mlp_bias"] = true;
  json["head_dim"] = 32;
  json["hidden_act"] = "gelu_pytorch_tanh";
  json.erase("torch_dtype");
  json["dtype"] = "bfloat16";
  const HfConfig config = read(json);
  EXPECT_TRUE(config.model.qkv_bias && config.model.o_bias && config.model.mlp_bias);
  EXPECT_TRUE(config.model.tie_word_embeddings);
  EXPECT_EQ(config.model.head_dim, 32);
  EXPECT_EQ(config.model.activation, Activation::kGeluTanh);
  EXPECT_EQ(config.dtype, DType::kBF16);
}

TEST(HfConfigTest, ReadsRopeInOldAndNewSpelling) {
  const TestJson scaling = {{"rope_type", "llama3"},
                            {"factor", 32.0},
                            {"low_freq_factor", 1.0},
                            {"high_freq_factor", 4.0},
                            {"original_max_position_embeddings", 8192}};
  TestJson old_spelling = with("rope_theta", 500000.0);
  old_spelling["rope_scaling"] = scaling;
  TestJson new_spelling = tiny_config_json();
  new_spelling.erase("rope_theta");
  new_spelling["rope_parameters"] = scaling;
  new_spelling["rope_parameters"]["rope_theta"] = 500000.0;
  const auto a = read(old_spelling).model.rope, b = read(new_spelling).model.rope;
  EXPECT_EQ(a, b);
  EXPECT_EQ(a.kind, RopeKind::kLlama3);
  EXPECT_EQ(a.theta, 500000);
  EXPECT_EQ(a.factor, 32);
  EXPECT_EQ(a.original_max_position_embeddings, 8192);

  // "type" was the name before "rope_type".
  const auto linear = read(with("rope_scaling", {{"type", "linear"}, {"factor", 4.0}})).model.rope;
  EXPECT_EQ(linear.kind, RopeKind::kLinear);
  EXPECT_EQ(linear.factor, 4);

  const auto yarn = read(with("rope_scaling", {{"type", "yarn"}, {"factor", 8.0}})).model.rope;
  EXPECT_EQ(yarn.kind, RopeKind::kYarn);
  EXPECT_EQ(yarn.original_max_position_embeddings, 128);
  EXPECT_FALSE(yarn.attention_factor.has_value());
  const auto deep =
      read(with("rope_scaling",
                {{"type", "yarn"}, {"factor", 40.0}, {"mscale", 1.0}, {"mscale_all_dim", 0.5}}))
          .model.rope;
  EXPECT_NEAR(*deep.attention_factor, (0.1 * std::log(40.0) + 1) / (0.05 * std::log(40.0) + 1),
              1e-15);
}

TEST(HfConfigTest, RefusesRopeThatDisagreesOrIsUnknown) {
  TestJson both = with("rope_parameters", {{"rope_type", "default"}, {"rope_theta", 777.0}});
  EXPECT_THAT(read_error(both), HasSubstr("c.json: rope_theta is 10000, but rope_parameters"));
  both["rope_theta"] = 777.0;
  EXPECT_EQ(read(both).model.rope.theta, 777);
  both["rope_scaling"] = {{"type", "linear"}, {"factor", 2.0}};
  EXPECT_THAT(read_error(both), HasSubstr("rope_scaling and rope_parameters disagree"));
  EXPECT_THAT(read_error(with("rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}})),
              HasSubstr("c.json: rope_scaling: type \"dynamic\" is not supported"));
  EXPECT_THAT(read_error(with("rope_scaling", {{"rope_type", "longrope"}})),
              HasSubstr("rope_type \"longrope\" is not supported (it changes all frequencies"));
  EXPECT_THAT(read_error(with("rope_scaling", {{"type", "linear"}})),
              HasSubstr("rope_scaling: factor is missing"));
  EXPECT_THAT(read_error(with("rope_scaling", {{"type", "linear"}, {"factor", 0.5}})),
              HasSubstr("rope_scaling: factor must be a number from 1"));
  EXPECT_THAT(
      read_error(with("rope_scaling", {{"type", "yarn"}, {"factor", 2.0}, {"truncate", false}})),
      HasSubstr("truncate false is not supported"));
  EXPECT_THAT(read_error(with("rope_scaling", "linear")), HasSubstr("expected an object"));
  EXPECT_THAT(read_error(with("rope_parameters", {{"full_attention", {{"rope_theta", 1e4}}}})),
              HasSubstr("differ by layer type"));
}

struct Absurd {
  const char* key;
  TestJson value;
  const char* expected;
};

TEST(HfConfigHostile, MoreParametersThanCanBeCountedAreAnError) {
  TestJson json = with("vocab_size", 2147483647);
  json["hidden_size"] = 2147483647;
  json["head_dim"] = 16;
  json["tie_word_embeddings"] = false;
  EXPECT_THAT(read_error(json), HasSubstr("c.json: model config: the sizes give more parameters"));
}

TEST(HfConfigHostile, AbsurdValuesAreErrorsThatNameTheField) {
  const std::vector<Absurd> cases = {
      {"model_type", "gpt2", "model_type \"gpt2\" is not supported; supported are llama, mistral"},
      {"model_type", "gemma3_text", "model_type \"gemma3_text\" is not supported (its layers see"},
      {"model_type", "gpt_oss", "not supported (its attention has learned sink logits"},
      {"model_type", "mixtral", "not supported (mixtures of experts"},
      {"model_type", 7, "model_type must be a string"},
      {"model_type", nullptr, "model_type is missing"},
      {"vocab_size", 0, "vocab_size must be an integer from 1"},
      {"vocab_size", -5, "vocab_size must be an integer"},
      {"vocab_size", "many", "vocab_size must be an integer from 1 to 2147483648, not \"many\""},
      {"vocab_size", 1e30, "vocab_size must be an integer"},
      {"vocab_size", 18446744073709551615ull, "vocab_size must be an integer"},
      {"vocab_size", nullptr, "vocab_size is missing"},
      {"hidden_size", 31, "hidden_size 31 is no multiple"},
      {"hidden_size", 1ll << 40, "hidden_size must be an integer"},
      {"hidden_size", TestJson::array({32}), "hidden_size must be an integer"},
      {"intermediate_size", false, "intermediate_size must be an integer"},
      {"num_hidden_layers", 5000, "num_hidden_layers must be an integer from 1 to 4096"},
      {"num_hidden_layers", 0, "num_hidden_layers must be an integer"},
      {"num_attention_heads", 0, "num_attention_heads must be an integer"},
      {"num_key_value_heads", 3, "num_key_value_heads must be an integer from 1 to 2"},
      {"head_dim", 8, "head_dim"},
      {"head_dim", 24, "head_dim"},
      {"max_position_embeddings", 0, "max_position_embeddings must be an integer"},
      {"rms_norm_eps", 0, "rms_norm_eps must be a number"},
      {"rms_norm_eps", "1e-5", "rms_norm_eps must be a number"},
      {"rms_norm_eps", nullptr, "rms_norm_eps is missing"},
      {"rope_theta", -1, "rope_theta must be a number"},
      {"rope_theta", 1e300, "rope_theta must be a number"},
      {"hidden_act", "mish", "hidden_act \"mish\" is not supported"},
      {"tie_word_embeddings", "yes", "tie_word_embeddings must be true or false"},
      {"tie_word_embeddings", 1, "tie_word_embeddings must be true or false"},
      {"attention_bias", 0.5, "attention_bias must be true or false"},
      {"torch_dtype", 5, "torch_dtype must be a string"},
      {"partial_rotary_factor", 0.5, "partial_rotary_factor other than 1"},
      {"sliding_window", 0, "sliding_window must be an integer from 1"},
      {"sliding_window", TestJson::array(), "sliding_window is an empty list"},
      {"sliding_window", "x", "sliding_window must be an integer"},
      {"layer_types", TestJson::array({"full_attention", "sliding_attention"}),
       "layer_types names sliding layers, but there is no sliding_window"},
      {"layer_types", TestJson::array({"chunked_attention"}),
       "layer_types names layers other than"},
      {"layer_types", 3, "layer_types names layers other than"},
      {"quantization_config", {{"bits", 4}}, "quantization_config is set"},
  };
  for (const Absurd& absurd : cases) {
    const std::string error = read_error(with(absurd.key, absurd.value));
    EXPECT_THAT(error, HasSubstr("c.json: ")) << absurd.key << " " << absurd.value;
    EXPECT_THAT(error, HasSubstr(absurd.expected)) << absurd.key << " " << absurd.value;
  }
  EXPECT_THAT(read_error(TestJson::array()), HasSubstr("expected an object, found an array"));
}

TEST(HfConfigTest, FullModelsAreWrittenAsTheirFamily) {
  auto config = tiny_config();
  const auto json = TestJson::parse(write_hf_config(config, DType::kBF16));
  EXPECT_EQ(json["model_type"], "llama");
  EXPECT_EQ(json["architectures"], TestJson::array({"LlamaForCausalLM"}));
  EXPECT_EQ(json["torch_dtype"], "bfloat16");
  EXPECT_EQ(json["dtype"], "bfloat16");
  for (const char* key : {"auto_map", "longgen", "layer_types", "rope_scaling"}) {
    EXPECT_FALSE(json.contains(key)) << key;
  }
  EXPECT_EQ(json["rope_parameters"], (TestJson{{"rope_theta", 10000.0}, {"rope_type", "default"}}));
  const auto back = read(json).model;
  EXPECT_EQ(back.patterns, config.patterns);
  EXPECT_EQ(back.rope, config.rope);
  EXPECT_EQ(back.hidden_size, config.hidden_size);
}

TEST(HfConfigTest, HybridsAreWrittenAsLonggen) {
  const TestJson json = hybrid_json();
  EXPECT_EQ(json["model_type"], "longgen");
  EXPECT_EQ(json["architectures"], TestJson::array({"LonggenForCausalLM"}));
  EXPECT_EQ(json["auto_map"],
            (TestJson{{"AutoConfig", "modeling_longgen.LonggenConfig"},
                      {"AutoModelForCausalLM", "modeling_longgen.LonggenForCausalLM"}}));
  EXPECT_EQ(json["layer_types"], TestJson::array({"sliding_attention", "full_attention"}));
  EXPECT_EQ(json["longgen"], TestJson::parse(R"({
    "format_version": 1, "base_model_type": "llama",
    "patterns": [
      {"block_size": 64, "sink_blocks": 1, "local_blocks": 4, "stride": 0, "offsets": [0]},
      {"block_size": 64, "sink_blocks": 0, "local_blocks": null, "stride": 0, "offsets": [0]}],
    "layer_patterns": [0, 1]})"));
}

TEST(HfConfigTest, HybridsOfEveryKindRoundTrip) {
  for (const char* spec :
       {"full=middle:1 sparse=sink-window", "full=0 sparse=strided", "full=top:0 sparse=local:1",
        "full=bottom:1 sparse=local:3,sink:0,stride:5,block:16,offset:heads"}) {
    auto config = tiny_config();
    config.num_kv_heads = 2;
    config.patterns = HybridSpec::parse(spec).resolve(2, 2);
    for (RopeKind kind :
         {RopeKind::kDefault, RopeKind::kLinear, RopeKind::kLlama3, RopeKind::kYarn}) {
      config.rope = {};
      config.rope.theta = 123456.5;
      config.rope.kind = kind;
      if (kind != RopeKind::kDefault) config.rope.factor = 4;
      if (kind == RopeKind::kLlama3 || kind == RopeKind::kYarn) {
        config.rope.original_max_position_embeddings = 32;
      }
      if (kind == RopeKind::kYarn) config.rope.attention_factor = 1.1;
      const auto text = write_hf_config(config, DType::kF32);
      const auto back = read_hf_config(Json::parse(text), "c.json").model;
      EXPECT_EQ(back.patterns, config.patterns) << spec;
      EXPECT_EQ(back.rope, config.rope) << spec;
      EXPECT_EQ(Json::parse(text).contains("rope_scaling"), kind != RopeKind::kDefault);
      // Writing what was read changes nothing.
      EXPECT_EQ(write_hf_config(back, DType::kF32), text);
    }
  }
}

TEST(HfConfigHostile, BrokenHybridsAreErrorsThatNameTheField) {
  const auto change = [](const std::function<void(TestJson&)>& edit) {
    TestJson json = hybrid_json();
    edit(json);
    return read_error(json);
  };
  EXPECT_THAT(change([](auto& j) { j.erase("longgen"); }), HasSubstr("longgen is missing"));
  EXPECT_THAT(change([](auto& j) { j["longgen"] = 1; }), HasSubstr("longgen: expected an object"));
  EXPECT_THAT(change([](auto& j) { j["longgen"]["format_version"] = 2; }),
              HasSubstr("format_version is 2; this program reads 1"));
  EXPECT_THAT(change([](auto& j) { j["longgen"]["base_model_type"] = "gpt2"; }),
              HasSubstr("model_type \"gpt2\" is not supported"));
  EXPECT_THAT(change([](auto& j) { j["longgen"]["patterns"] = TestJson::array(); }),
              HasSubstr("patterns must be an array"));
  EXPECT_THAT(change([](auto& j) { j["longgen"]["patterns"][0]["block_size"] = 48; }),
              HasSubstr("patterns[0]"));
  EXPECT_THAT(change([](auto& j) { j["longgen"]["patterns"][1]["block_size"] = 32; }),
              HasSubstr("patterns[1]: block_size differs"));
  EXPECT_THAT(change([](auto& j) { j["longgen"]["patterns"][0]["local_blocks"] = 0; }),
              HasSubstr("patterns[0]: local_blocks must be"));
  EXPECT_THAT(change([](auto& j) { j["longgen"]["patterns"][0]["sink_blocks"] = -1; }),
              HasSubstr("sink_blocks must be"));
  EXPECT_THAT(change([](auto& j) { j["longgen"]["patterns"][0].erase("sink_blocks"); }),
              HasSubstr("sink_blocks is missing"));
  EXPECT_THAT(change([](auto& j) {
                j["longgen"]["patterns"][0]["stride"] = 4;
                j["longgen"]["patterns"][0]["offsets"] = {1, 2, 3};
              }),
              HasSubstr("patterns[0]"));
  EXPECT_THAT(change([](auto& j) { j["longgen"]["layer_patterns"] = {0}; }),
              HasSubstr("layer_patterns has 1 entries for num_hidden_layers 2"));
  EXPECT_THAT(change([](auto& j) {
                j["longgen"]["layer_patterns"] = {0, 2};
              }),
              HasSubstr("layer_patterns must be an integer from 0 to 1"));
  EXPECT_THAT(change([](auto& j) {
                j["layer_types"] = {"full_attention", "full_attention"};
              }),
              HasSubstr("layer_types [0] disagrees"));
  EXPECT_THAT(change([](auto& j) { j.erase("layer_types"); }), HasSubstr("layer_types is missing"));
}

TEST(HfConfigTest, KeepsHarmlessKeysAndNoOthers) {
  TestJson json = tiny_config_json();
  json["pad_token_id"] = 3;
  json["attention_dropout"] = 0.0;
  json["pretraining_tp"] = 1;
  json["_name_or_path"] = "somewhere/else";
  json["transformers_version"] = "4.0";
  json["sliding_window"] = nullptr;
  const HfConfig config = read(json);
  const auto out = TestJson::parse(write_hf_config(config.model, DType::kF32, config.extras));
  EXPECT_EQ(out["pad_token_id"], 3);
  EXPECT_EQ(out["attention_dropout"], 0.0);
  EXPECT_EQ(out["pretraining_tp"], 1);
  for (const char* key : {"_name_or_path", "transformers_version", "sliding_window"}) {
    EXPECT_FALSE(out.contains(key)) << key;
  }
}

TEST(HfConfigTest, RefusesToWriteWhatLlamaCannotSay) {
  const auto error = [](const std::function<void(model::ModelConfig&)>& edit) {
    auto config = tiny_config();
    edit(config);
    return error_of([&] { write_hf_config(config, DType::kF32); });
  };
  EXPECT_THAT(error([](auto& c) { c.qk_norm = true; }), HasSubstr("norms of queries and keys"));
  EXPECT_THAT(error([](auto& c) { c.qkv_bias = true; }),
              HasSubstr("these biases of the attention"));
  EXPECT_THAT(error([](auto& c) { c.gated_mlp = false; }), HasSubstr("MLP without a gate"));
  EXPECT_THAT(error([](auto& c) { c.norm = NormKind::kLayer; }), HasSubstr("kind of norm"));
  EXPECT_THAT(error([](auto& c) { c.norm_eps = 1e-6, c.family = "opt"; }),
              HasSubstr("a opt config.json cannot express this kind of norm"));
  EXPECT_THAT(error([](auto& c) { c.rotary_dim = 8; }), HasSubstr("a partial rotation"));
  EXPECT_THAT(error([](auto& c) { c.family = "bert"; }), HasSubstr("\"bert\" is not supported"));
  EXPECT_THAT(error([](auto& c) {
                c.family = "phi3";
                c.rope.kind = RopeKind::kLinear;
                c.rope.factor = 2;
              }),
              HasSubstr("longrope"));
}

TEST(JsonTest, BoundsDepthAndRefusesRepeatedKeys) {
  const std::string deep(kMaxJsonDepth + 1, '[');
  EXPECT_THAT(error_of([&] { parse_json(deep, "f"); }), HasSubstr("f: JSON is nested deeper"));
  EXPECT_THAT(error_of([&] { parse_json(std::string(10'000'000, '['), "f"); }),
              HasSubstr("f: JSON is nested deeper"));
  const std::string fine = std::string(kMaxJsonDepth, '[') + std::string(kMaxJsonDepth, ']');
  EXPECT_NO_THROW(parse_json(fine, "f"));
  EXPECT_THAT(error_of([] { parse_json(R"({"a":{"b":1,"b":2}})", "f"); }),
              HasSubstr("f: key \"b\" appears twice"));
  EXPECT_NO_THROW(parse_json(R"([{"a":1},{"a":2,"b":{"a":3}}])", "f"));
  for (const char* text :
       {"", " ", "{", "{}x", "nul", "1e999", "[1,]", "{\"a\":Infinity}", "\"\\u12\"", "\xff"}) {
    EXPECT_THAT(error_of([&] { parse_json(text, "f"); }), HasSubstr("f: not valid JSON")) << text;
  }
}

}  // namespace
}  // namespace longgen::formats
