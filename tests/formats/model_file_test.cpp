#include "longgen/formats/model_file.h"

#include <gmock/gmock.h>

#include <cmath>
#include <cstdlib>
#include <limits>

#include "formats_testing.h"
#include "longgen/base/rng.h"

namespace longgen::formats {
namespace {

using ::testing::HasSubstr;
using namespace longgen::testing;
namespace fs = std::filesystem;

std::vector<float> values_of(const Tensor& tensor) {
  return {tensor.data<float>(), tensor.data<float>() + tensor.numel()};
}

void expect_weights(const ModelFile& file, const std::vector<F32Tensor>& expected) {
  HostMemory memory;
  const model::ParameterSet weights("weights", file.config(), DType::kF32, memory);
  file.read_weights(weights);
  ASSERT_EQ(weights.specs().size(), expected.size());
  for (const F32Tensor& tensor : expected) {
    EXPECT_EQ(values_of(weights[tensor.name]), tensor.values) << tensor.name;
  }
}

std::string weights_error(const fs::path& path) {
  return error_of([&] {
    const auto file = ModelFile::open(path);
    HostMemory memory;
    const model::ParameterSet weights("weights", file.config(), DType::kF32, memory);
    file.read_weights(weights);
  });
}

TEST(ModelFileTest, ReadsHuggingFaceDirectories) {
  for (bool tied : {false, true}) {
    TempFolder folder;
    const auto config = tiny_config(tied);
    write_tiny_model(folder.path(), config);
    const auto file = ModelFile::open(folder.path());
    EXPECT_EQ(file.kind(), ModelKind::kHuggingFace);
    EXPECT_EQ(file.directory(), folder.path());
    EXPECT_EQ(file.gguf(), nullptr);
    EXPECT_TRUE(file.has_weights());
    EXPECT_EQ(file.lossless_dtype(), DType::kF32);
    expect_weights(file, tiny_weights(config));
  }
}

TEST(ModelFileTest, ReadsGgufFilesAndRestoresQueryAndKeyRows) {
  for (bool tied : {false, true}) {
    for (int64_t kv_heads : {1, 2}) {
      TempFolder folder;
      auto config = tiny_config(tied);
      config.num_kv_heads = kv_heads;
      const auto path = folder.write("m.gguf", tiny_gguf(config).build());
      const auto file = ModelFile::open(path);
      EXPECT_EQ(file.kind(), ModelKind::kGguf);
      EXPECT_NE(file.gguf(), nullptr);
      EXPECT_EQ(file.config().tie_word_embeddings, tied);
      EXPECT_EQ(file.config().norm_eps, 1e-5);  // f32 in the file
      EXPECT_EQ(file.config().num_kv_heads, kv_heads);
      expect_weights(file, tiny_weights(config));
    }
  }
}

TEST(ModelFileTest, RestoresQueryAndKeyBiasesOfGguf) {
  TempFolder folder;
  auto config = tiny_config();
  config.qkv_bias = config.o_bias = config.mlp_bias = true;
  const auto file = ModelFile::open(folder.write("m.gguf", tiny_gguf(config).build()));
  EXPECT_TRUE(file.config().qkv_bias && file.config().o_bias && file.config().mlp_bias);
  expect_weights(file, tiny_weights(config));
}

TEST(ModelFileTest, ConvertsToTheSetsDtype) {
  TempFolder folder;
  const auto config = tiny_config();
  const auto gguf = ModelFile::open(folder.write("m.gguf", tiny_gguf(config).build()));
  write_tiny_model(folder.path() / "hf", config);
  const auto hf = ModelFile::open(folder.path() / "hf");
  for (const ModelFile* file : {&gguf, &hf}) {
    HostMemory memory;
    const model::ParameterSet b16("weights", config, DType::kBF16, memory);
    const model::ParameterSet f64("weights", config, DType::kF64, memory);
    file->read_weights(b16);
    file->read_weights(f64);
    for (const F32Tensor& tensor : tiny_weights(config)) {
      for (size_t i = 0; i < tensor.values.size(); ++i) {
        EXPECT_EQ(b16[tensor.name].data<bf16>()[i].bits, bf16(tensor.values[i]).bits);
        EXPECT_EQ(f64[tensor.name].data<double>()[i], tensor.values[i]);
      }
    }
  }
}

TEST(ModelFileTest, BareConfigHasNoWeights) {
  TempFolder folder;
  const auto path = folder.write("some-config.json", tiny_config_json().dump());
  const auto file = ModelFile::open(path);
  EXPECT_EQ(file.kind(), ModelKind::kConfigOnly);
  EXPECT_FALSE(file.has_weights());
  EXPECT_EQ(file.config().num_layers, 2);
  EXPECT_THAT(weights_error(path), HasSubstr("there are no weights here"));
}

TEST(ModelFileTest, ReadsGenerationSettings) {
  TempFolder other;
  Json config = tiny_config_json();
  config["bos_token_id"] = 1;
  config["eos_token_id"] = 2;
  config["pad_token_id"] = -1;  // none, as Llama-2 had it
  other.write("config.json", config.dump());
  const auto plain = ModelFile::open(other.path()).extras().generation;
  EXPECT_EQ(plain.bos_id, 1);
  EXPECT_EQ(plain.eos_ids, (std::vector<int64_t>{2}));
  EXPECT_FALSE(plain.pad_id.has_value());

  other.write("generation_config.json",
              R"({"eos_token_id":[5,6],"pad_token_id":0,"temperature":0.6,"do_sample":true,)"
              R"("transformers_version":"4.9"})");
  other.write("tokenizer_config.json", R"({"chat_template":"{{ old }}"})");
  const auto file = ModelFile::open(other.path());
  EXPECT_EQ(file.extras().generation.bos_id, 1);
  EXPECT_EQ(file.extras().generation.eos_ids, (std::vector<int64_t>{5, 6}));
  EXPECT_EQ(file.extras().generation.pad_id, 0);
  EXPECT_EQ(Json::parse(file.extras().generation_config),
            (Json{{"do_sample", true}, {"temperature", 0.6}}));
  EXPECT_EQ(file.extras().chat_template, "{{ old }}");
  other.write("chat_template.jinja", "{{ new }}");
  EXPECT_EQ(ModelFile::open(other.path()).extras().chat_template, "{{ new }}");
}

TEST(ModelFileTest, ReadsNamedChatTemplates) {
  TempFolder folder;
  folder.write("config.json", tiny_config_json().dump());
  folder.write(
      "tokenizer_config.json",
      R"({"chat_template":[{"name":"tool","template":"t"},{"name":"default","template":"d"}]})");
  EXPECT_EQ(ModelFile::open(folder.path()).extras().chat_template, "d");
}

TEST(ModelFileTest, RefusesPathsThatAreNoModel) {
  TempFolder folder;
  const auto error = [&](const std::string& name) {
    return error_of([&] { ModelFile::open(folder.path() / name); });
  };
  EXPECT_THAT(error("absent"), HasSubstr("there is no such file or folder"));
  fs::create_directories(folder.path() / "empty");
  EXPECT_THAT(error("empty"), HasSubstr("there is no config.json"));
  folder.write("x.safetensors", "xxxxxxxxx");
  EXPECT_THAT(error("x.safetensors"), HasSubstr("neither a GGUF file nor a config.json"));
  folder.write("x.gguf", "<!doctype html>");
  EXPECT_THAT(error("x.gguf"), HasSubstr("x.gguf: no GGUF file, whatever its name says"));
  folder.write("nothing.gguf", "");
  EXPECT_THAT(error("nothing.gguf"), HasSubstr("nothing.gguf: the file is empty; fetch it again"));
  fs::create_directories(folder.path() / "bin");
  std::ofstream(folder.path() / "bin" / "config.json") << tiny_config_json().dump();
  std::ofstream(folder.path() / "bin" / "pytorch_model.bin") << "x";
  EXPECT_THAT(error("bin"), HasSubstr("pytorch_model.bin, which is not read"));
}

std::vector<F32Tensor> changed_weights(const std::function<void(std::vector<F32Tensor>&)>& change,
                                       bool tied = false) {
  auto weights = tiny_weights(tiny_config(tied));
  change(weights);
  return weights;
}

std::string hf_error(const std::vector<F32Tensor>& weights, bool tied = false) {
  TempFolder folder;
  folder.write("config.json", tiny_config_json(tied).dump());
  folder.write("model.safetensors", safetensors_bytes(weights));
  return weights_error(folder.path());
}

TEST(ModelFileHostile, NamesMissingUnknownAndMisshapenTensors) {
  const std::string error = hf_error(changed_weights([](auto& weights) {
    weights.erase(weights.begin() + 1);
    weights[4].shape[0] /= 2;
    weights[4].values.resize(weights[4].values.size() / 2);
    weights.push_back({"model.surprise", {1}, {1}});
  }));
  const auto all = tiny_weights(tiny_config());
  EXPECT_THAT(error, HasSubstr("tensor " + all[1].name + " is missing"));
  EXPECT_THAT(error, HasSubstr(all[5].name + " ["));
  EXPECT_THAT(error, HasSubstr("should be ["));
  EXPECT_THAT(error, HasSubstr("model.surprise [1] F32 is not a parameter"));
  EXPECT_THAT(error, HasSubstr("config and weights belong together"));
}

TEST(ModelFileHostile, ListsOnlyTheFirstProblems) {
  const std::string error = hf_error({{"x", {1}, {1}}});
  EXPECT_THAT(error, HasSubstr("and "));
  EXPECT_THAT(error, HasSubstr(" more"));
  EXPECT_LT(error.size(), 2000u);
}

TEST(ModelFileHostile, NamesTensorsThatHoldNanOrInfinity) {
  for (float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    const auto config = tiny_config();
    const std::string name = "model.layers.1.mlp.up_proj.weight";
    const auto weights = changed_weights([&](auto& all) {
      for (auto& tensor : all) {
        if (tensor.name == name) tensor.values[77] = bad;
      }
    });
    EXPECT_THAT(hf_error(weights), HasSubstr(name + " [48, 32] F32 holds NaN or infinity"));

    TempFolder folder;
    GgufBuilder gguf = tiny_gguf(config);
    gguf.erase_tensor("blk.0.attn_k.weight");
    std::vector<float> values(16 * 32, 1.0f);
    values[100] = bad;
    gguf.tensor("blk.0.attn_k.weight", {32, 16}, 0, bytes_of(values));
    EXPECT_THAT(weights_error(folder.write("m.gguf", gguf.build())),
                HasSubstr("blk.0.attn_k.weight [16, 32] F32 holds NaN or infinity"));
  }
}

TEST(ModelFileTest, ACopyOfTheTiedHeadIsIgnoredAnotherHeadIsNot) {
  const auto with_head = [](float change) {
    return changed_weights(
        [&](auto& weights) {
          F32Tensor head = weights[0];
          head.name = "lm_head.weight";
          head.values[3] += change;
          weights.push_back(head);
          weights.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", {2}, {1, 2}});
        },
        true);
  };
  EXPECT_EQ(hf_error(with_head(0), true), "");
  EXPECT_THAT(hf_error(with_head(1), true), HasSubstr("differs from the embedding"));
  const auto only_head =
      changed_weights([](auto& weights) { weights[0].name = "lm_head.weight"; }, true);
  EXPECT_THAT(hf_error(only_head, true), HasSubstr("model.embed_tokens.weight is missing"));
}

TEST(ModelFileHostile, GgufConfigurationsThatAreNotReadAreNamed) {
  const auto error = [](const std::function<void(GgufBuilder&)>& change) {
    TempFolder folder;
    GgufBuilder gguf = tiny_gguf(tiny_config());
    change(gguf);
    return weights_error(folder.write("m.gguf", gguf.build()));
  };
  const auto replace_u32 = [&](const std::string& key, uint32_t value) {
    return error([&](auto& g) {
      g.erase(key);
      g.u32(key, value);
    });
  };
  EXPECT_THAT(error([](auto& g) {
                g.erase("general.architecture");
                g.string("general.architecture", "mamba");
              }),
              HasSubstr("general.architecture \"mamba\" is not supported; supported are llama, "
                        "qwen2, qwen3, phi3, gptneox"));
  EXPECT_THAT(error([](auto& g) { g.erase("general.architecture"); }),
              HasSubstr("general.architecture is missing"));
  EXPECT_THAT(replace_u32("llama.block_count", 0), HasSubstr("llama.block_count must be"));
  EXPECT_THAT(replace_u32("llama.block_count", 100000), HasSubstr("llama.block_count must be"));
  EXPECT_THAT(replace_u32("llama.block_count", 3),
              HasSubstr("tensor blk.2.attn_norm.weight is missing"));
  EXPECT_THAT(replace_u32("llama.block_count", 1),
              HasSubstr("tensor blk.1.attn_k.weight [16, 32] F32 is not a parameter"));
  EXPECT_THAT(replace_u32("llama.attention.head_count", 0), HasSubstr("head_count must be"));
  EXPECT_THAT(replace_u32("llama.attention.head_count", 5), HasSubstr("do not fit together"));
  EXPECT_THAT(replace_u32("llama.attention.head_count_kv", 0), HasSubstr("head_count_kv must be"));
  EXPECT_THAT(replace_u32("llama.embedding_length", 64), HasSubstr("should be ["));
  EXPECT_THAT(replace_u32("llama.context_length", 0), HasSubstr("context_length must be"));
  EXPECT_THAT(replace_u32("llama.expert_count", 8), HasSubstr("mixtures of experts"));
  EXPECT_THAT(replace_u32("llama.rope.dimension_count", 8), HasSubstr("partial rotation"));
  EXPECT_THAT(replace_u32("split.count", 2), HasSubstr("should end in -00001-of-00002.gguf"));
  EXPECT_THAT(replace_u32("tokenizer.ggml.eos_token_id", 32), HasSubstr("eos_token_id must be"));
  EXPECT_THAT(error([](auto& g) { g.string("llama.rope.scaling.type", "longrope"); }),
              HasSubstr("llama.rope.scaling.type \"longrope\" is not supported"));
  EXPECT_THAT(error([](auto& g) { g.tensor("rope_freqs.weight", {8}, 0, std::string(32, 'x')); }),
              HasSubstr("rope_freqs.weight"));
  EXPECT_THAT(error([](auto& g) {
                g.erase("llama.attention.layer_norm_rms_epsilon");
                g.f32("llama.attention.layer_norm_rms_epsilon", std::nanf(""));
              }),
              HasSubstr("layer_norm_rms_epsilon must be a number"));
  EXPECT_THAT(error([](auto& g) {
                g.erase_tensor("token_embd.weight");
                g.u32("llama.vocab_size", 32);
              }),
              HasSubstr("token_embd.weight is missing"));
}

// What is no whole block of the configuration's width is not kept as stored; checking names it.
TEST(ModelFileHostile, QuantisedTensorsOfAnotherShapeAreNamed) {
  TempFolder folder;
  GgufBuilder gguf = tiny_gguf(tiny_config());
  gguf.erase_tensor("blk.0.ffn_down.weight");  // [32, 48]
  const auto q8_0 = static_cast<uint32_t>(GgmlType::kQ8_0);
  gguf.tensor("blk.0.ffn_down.weight", {64, 32}, q8_0, std::string(32 * 2 * 34, '\0'));
  const auto path = folder.write("m.gguf", gguf.build());
  const std::string error = error_of([&] {
    const auto file = ModelFile::open(path);
    HostMemory memory;
    const model::ParameterSet weights("weights", file.config(), DType::kBF16, memory,
                                      file.weight_schemes());
    file.read_weights(weights);
  });
  EXPECT_THAT(error, HasSubstr("m.gguf: tensor blk.0.ffn_down.weight [32, 64] Q8_0 should be"));
}

// Each size is in range, but bytes of all parameters would not fit 64 bits.
TEST(ModelFileHostile, MoreParametersThanCanBeCountedAreAnErrorOfGgufToo) {
  TempFolder folder;
  GgufBuilder gguf = tiny_gguf(tiny_config());
  for (const char* key : {"llama.embedding_length", "llama.feed_forward_length"}) {
    gguf.erase(key);
    gguf.u32(key, 2147483648u);
  }
  gguf.u32("llama.attention.key_length", 16);
  gguf.u32("llama.attention.value_length", 16);
  EXPECT_THAT(weights_error(folder.write("m.gguf", gguf.build())),
              HasSubstr("m.gguf: model config: the sizes give more parameters"));
}

TEST(ModelFileHostile, DamagedConfigsAndModelsAreReadOrRefused) {
  TempFolder folder;
  write_tiny_model(folder.path(), tiny_config());
  const std::string config = read_file(folder.path() / "config.json");
  for (size_t length = 0; length < config.size(); ++length) {
    folder.write("config.json", std::string_view(config).substr(0, length));
    EXPECT_THAT(weights_error(folder.path()), HasSubstr("config.json")) << length;
  }
  const std::string gguf = tiny_gguf(tiny_config()).build();
  Rng rng(13, 0);
  int refused = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string bytes = round % 2 == 0 ? config : gguf;
    // The first kilobyte of the GGUF file is its metadata; the weights' bytes are dull.
    const size_t range = std::min<size_t>(bytes.size(), 1500);
    for (uint64_t flips = 1 + rng.below(3); flips > 0; --flips) {
      bytes[rng.below(range)] = static_cast<char>(rng.below(256));
    }
    fs::path path = folder.path();
    if (round % 2 == 0) {
      folder.write("config.json", bytes);
    } else {
      path = folder.write("m.gguf", bytes);
    }
    // Only opened: a damaged size may ask for more memory than there is.
    try {
      const auto file = ModelFile::open(path);
      if (file.has_weights()) file.check_weights();
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace longgen::formats
