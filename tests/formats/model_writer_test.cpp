#include "longgen/formats/model_writer.h"

#include <gmock/gmock.h>

#include <cmath>

#include "formats_testing.h"
#include "longgen/formats/safetensors.h"
#include "longgen/pattern/hybrid_spec.h"

namespace longgen::formats {
namespace {

using ::testing::HasSubstr;
using namespace longgen::testing;
namespace fs = std::filesystem;

// The weights of tiny_weights in a set.
struct TinyModel {
  explicit TinyModel(model::ModelConfig c = tiny_config(), DType dtype = DType::kF32)
      : config(std::move(c)), weights("weights", config, dtype, memory) {
    for (const F32Tensor& tensor : tiny_weights(config)) {
      const Tensor& out = weights[tensor.name];
      for (int64_t i = 0; i < out.numel(); ++i) {
        const float value = tensor.values[static_cast<size_t>(i)];
        if (dtype == DType::kF32) out.data<float>()[i] = value;
        if (dtype == DType::kBF16) out.data<bf16>()[i] = bf16(value);
        if (dtype == DType::kF64) out.data<double>()[i] = value;
      }
    }
  }
  void write(const fs::path& directory, const ModelWriteOptions& options,
             const ModelExtras& extras = {}) {
    ModelWriter writer(directory, config, extras, options);
    writer.write_weights(weights);
    writer.commit();
  }

  HostMemory memory;
  model::ModelConfig config;
  model::ParameterSet weights;
};

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

// Reads the model back as bf16 or f32 and compares with what bf16 or f32 make of tiny_weights.
void expect_model(const fs::path& directory, const model::ModelConfig& config, DType stored) {
  const auto file = ModelFile::open(directory);
  EXPECT_EQ(file.config().patterns, config.patterns);
  EXPECT_EQ(file.lossless_dtype(), stored);
  HostMemory memory;
  const model::ParameterSet weights("weights", file.config(), DType::kF32, memory);
  file.read_weights(weights);
  for (const F32Tensor& tensor : tiny_weights(config)) {
    for (size_t i = 0; i < tensor.values.size(); ++i) {
      const float expected =
          stored == DType::kF32 ? tensor.values[i] : static_cast<float>(bf16(tensor.values[i]));
      ASSERT_EQ(weights[tensor.name].data<float>()[i], expected) << tensor.name << " " << i;
    }
  }
}

model::ModelConfig hybrid_config() {
  auto config = tiny_config();
  config.patterns = HybridSpec::parse("full=bottom:1 sparse=local:2,sink:1").resolve(2, 1);
  return config;
}

TEST(ModelWriterTest, RoundTripsEveryDtype) {
  for (DType in_memory : {DType::kF32, DType::kBF16, DType::kF64}) {
    for (DType stored : {DType::kF32, DType::kBF16}) {
      if (in_memory == DType::kBF16 && stored == DType::kF32) continue;  // covered by the values
      TempFolder folder;
      TinyModel model(tiny_config(), in_memory);
      model.write(folder.path() / "deep" / "out", {.dtype = stored});
      expect_model(folder.path() / "deep" / "out", model.config, stored);
      EXPECT_EQ(names_in(folder.path() / "deep"), (std::vector<std::string>{"out"}));
    }
  }
}

TEST(ModelWriterTest, FullModelsArePlain) {
  TempFolder folder;
  TinyModel model;
  model.write(folder.path() / "out/", {.dtype = DType::kF32});
  EXPECT_EQ(
      names_in(folder.path() / "out"),
      (std::vector<std::string>{"config.json", "generation_config.json", "model.safetensors"}));
  const SafetensorsFile file(folder.path() / "out" / "model.safetensors");
  EXPECT_EQ(file.metadata().at("format"), "pt");
}

TEST(ModelWriterTest, HybridsCarryTheirRemoteCode) {
  TempFolder folder;
  TinyModel model(hybrid_config());
  model.write(folder.path() / "out", {});
  expect_model(folder.path() / "out", model.config, DType::kBF16);
  EXPECT_EQ(read_file(folder.path() / "out" / "modeling_longgen.py"),
            read_file(fs::path(LONGGEN_SOURCE_DIR) / "longgen/formats/hf/modeling_longgen.py"));
}

TEST(ModelWriterTest, ShardsAndTheirIndex) {
  TempFolder folder;
  TinyModel model;
  model.write(folder.path() / "out", {.dtype = DType::kF32, .max_shard_bytes = 10'000});
  expect_model(folder.path() / "out", model.config, DType::kF32);
  const Json index = Json::parse(read_file(folder.path() / "out" / "model.safetensors.index.json"));
  EXPECT_EQ(index["metadata"]["total_size"], model::parameter_count(model.config) * 4);
  EXPECT_EQ(index["weight_map"].size(), model.weights.specs().size());
  std::set<std::string> shards;
  for (const auto& [tensor, file] : index["weight_map"].items()) shards.insert(file);
  EXPECT_GT(shards.size(), 3u);
  EXPECT_EQ(*shards.begin(), fmt::format("model-00001-of-{:05}.safetensors", shards.size()));
  for (const std::string& shard : shards) {
    const SafetensorsFile file(folder.path() / "out" / shard);
    size_t bytes = 0;
    for (const auto& entry : file.tensors()) bytes += entry.bytes.size();
    EXPECT_TRUE(bytes <= 10'000 || file.tensors().size() == 1) << shard;
  }
}

TEST(ModelWriterTest, CarriesTheSourcesExtras) {
  TempFolder folder;
  ModelExtras extras;
  extras.generation.bos_id = 1;
  extras.generation.eos_ids = {2, 3};
  extras.generation_config = R"({"temperature":0.5})";
  extras.chat_template = "{{ messages }}";
  extras.config_extras = R"({"initializer_range":0.02,"pad_token_id":9})";
  TinyModel model;
  model.write(folder.path() / "out", {}, extras);
  const Json config = Json::parse(read_file(folder.path() / "out" / "config.json"));
  EXPECT_EQ(config["initializer_range"], 0.02);
  EXPECT_EQ(config["bos_token_id"], 1);
  EXPECT_EQ(config["eos_token_id"], Json::array({2, 3}));
  EXPECT_TRUE(config["pad_token_id"].is_null());  // the generation settings say there is none
  const Json generation = Json::parse(read_file(folder.path() / "out" / "generation_config.json"));
  EXPECT_EQ(generation["temperature"], 0.5);
  EXPECT_EQ(generation["eos_token_id"], Json::array({2, 3}));
  const auto back = ModelFile::open(folder.path() / "out").extras();
  EXPECT_EQ(back.generation.bos_id, 1);
  EXPECT_EQ(back.generation.eos_ids, extras.generation.eos_ids);
  EXPECT_FALSE(back.generation.pad_id.has_value());
  EXPECT_EQ(back.chat_template, extras.chat_template);
}

TEST(ModelWriterTest, NothingIsLeftWithoutCommit) {
  TempFolder folder;
  TinyModel model;
  {
    ModelWriter writer(folder.path() / "out", model.config, {}, {});
    writer.write_weights(model.weights);
    EXPECT_TRUE(fs::exists(writer.staging() / "model.safetensors"));
  }
  EXPECT_TRUE(names_in(folder.path()).empty());
  ModelWriter no_weights(folder.path() / "out", model.config, {}, {});
  EXPECT_THAT(error_of([&] { no_weights.commit(); }), HasSubstr("weights were not written"));
}

TEST(ModelWriterTest, RefusesWeightsThatHoldNan) {
  TempFolder folder;
  TinyModel model;
  model.weights["model.norm.weight"].data<float>()[5] = std::nanf("");
  EXPECT_THAT(error_of([&] { model.write(folder.path() / "out", {}); }),
              HasSubstr("tensor model.norm.weight holds NaN or infinity"));
  EXPECT_TRUE(names_in(folder.path()).empty());
}

TEST(ModelWriterTest, DoesNotTouchFoldersThatAreNotEmpty) {
  TempFolder folder;
  TinyModel model;
  fs::create_directories(folder.path() / "out");
  model.write(folder.path() / "out", {.dtype = DType::kF32});  // empty: fine
  const std::string before = read_file(folder.path() / "out" / "config.json");
  EXPECT_THAT(
      error_of([&] { model.write(folder.path() / "out", {}); }),
      HasSubstr("is not empty; choose another output, or replace the model in it with --force"));
  EXPECT_EQ(read_file(folder.path() / "out" / "config.json"), before);
  folder.write("file", "x");
  EXPECT_THAT(error_of([&] { model.write(folder.path() / "file", {}); }),
              HasSubstr("exists and is not a folder"));
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"file", "out"}));
}

TEST(ModelWriterTest, ForceReplacesModelsAndNothingElse) {
  TempFolder folder;
  const fs::path out = folder.path() / "out";
  TinyModel hybrid(hybrid_config()), full;
  hybrid.write(out, {.max_shard_bytes = 10'000});
  full.write(out, {.dtype = DType::kF32, .existing = ExistingOutput::kReplaceModel});
  expect_model(out, full.config, DType::kF32);
  EXPECT_EQ(names_in(out), (std::vector<std::string>{"config.json", "generation_config.json",
                                                     "model.safetensors"}));
  std::ofstream(out / "thesis.txt") << "precious";
  EXPECT_THAT(error_of([&] { full.write(out, {.existing = ExistingOutput::kReplaceModel}); }),
              HasSubstr("holds thesis.txt, which is no part of a model"));
  EXPECT_EQ(read_file(out / "thesis.txt"), "precious");
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"out"}));
}

TEST(ModelWriterTest, AddsToARunsFolder) {
  TempFolder folder;
  const fs::path out = folder.path() / "out";
  TinyModel hybrid(hybrid_config()), full;
  hybrid.write(out, {.max_shard_bytes = 10'000});
  std::ofstream(out / "metrics.jsonl") << "{}";
  fs::create_directories(out / "checkpoints");
  full.write(out, {.dtype = DType::kF32, .existing = ExistingOutput::kAddTo});
  expect_model(out, full.config, DType::kF32);
  EXPECT_EQ(read_file(out / "metrics.jsonl"), "{}");
  EXPECT_TRUE(fs::exists(out / "checkpoints"));
  EXPECT_FALSE(fs::exists(out / "model.safetensors.index.json"));
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"out"}));
}

TEST(ModelWriterTest, AModelMayReplaceItsOwnSource) {
  TempFolder folder;
  const fs::path out = folder.path() / "out";
  TinyModel model;
  model.write(out, {.dtype = DType::kF32});
  const auto source = ModelFile::open(out);
  std::vector<float> buffer(32 * 48);
  ModelWriter writer(out, hybrid_config(), source.extras(),
                     {.dtype = DType::kF32, .existing = ExistingOutput::kReplaceModel});
  writer.write_weights([&](const model::ParamSpec& spec) {
    const Tensor tensor(buffer.data(), DType::kF32, spec.shape);
    source.read_weight(spec.name, tensor);
    return tensor;
  });
  writer.commit();
  expect_model(out, hybrid_config(), DType::kF32);
}

}  // namespace
}  // namespace longgen::formats
