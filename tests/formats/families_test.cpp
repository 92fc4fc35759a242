// Every family against Transformers, by the whole path: the directory that save_pretrained wrote,
// ModelFile, Decoder; whole and as a hybrid; and written back.
#include <gmock/gmock.h>

#include "formats_testing.h"
#include "longgen/formats/model_writer.h"
#include "longgen/formats/safetensors.h"
#include "longgen/model/decoder.h"
#include "longgen/pattern/hybrid_spec.h"
#include "tests/testing/golden_model.h"

namespace longgen::formats {
namespace {

using ::testing::HasSubstr;
using namespace longgen::testing;
namespace fs = std::filesystem;

fs::path cases_folder() { return fs::path(LONGGEN_SOURCE_DIR) / "tests/golden/families"; }

std::vector<std::string> case_names() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(cases_folder())) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

// What make_families.py wrote beside a model.
struct Expected {
  explicit Expected(const std::string& name) {
    const SafetensorsFile file(cases_folder() / name / "expected.safetensors");
    const auto& entry = file["ids"];
    std::vector<int64_t> wide(static_cast<size_t>(entry.shape[0]));
    file.read("ids", Tensor::of(std::span(wide)));
    ids.assign(wide.begin(), wide.end());
    for (auto* values : {&logits, &hybrid_logits}) {
      const auto& stored = file[values == &logits ? "logits" : "hybrid_logits"];
      values->resize(stored.bytes.size() / sizeof(double));
      file.read(stored,
                Tensor(values->data(), DType::kF64, std::span<const int64_t>(stored.shape)));
    }
  }
  std::vector<int32_t> ids;
  std::vector<double> logits, hybrid_logits;  // [tokens, vocabulary]
};

std::vector<double> run(const ModelFile& file, const model::ModelConfig& config, Backend& backend,
                        DType dtype, const std::vector<int32_t>& ids) {
  HostMemory memory;
  const model::ParameterSet weights("weights", config, dtype, memory);
  file.read_weights(weights);
  const auto tokens = static_cast<int64_t>(ids.size());
  model::TrainingPass pass(config, weights, backend, tokens, {}, memory);
  const DType acc = accumulation_dtype(dtype);
  std::vector<std::byte> storage(static_cast<size_t>(tokens * config.vocab_size * dtype_size(acc)));
  const Tensor logits(storage.data(), acc, {tokens, config.vocab_size});
  const std::vector<int32_t> labels(ids.size(), -1);
  pass.logits({ids, labels, {}}, logits);
  return to_doubles(logits);
}

model::ModelConfig as_hybrid(model::ModelConfig config) {
  config.patterns = HybridSpec::parse("full=1 sparse=local:2,sink:1,block:16")
                        .resolve(config.num_layers, config.num_kv_heads);
  return config;
}

class Families : public ::testing::TestWithParam<std::string> {
 protected:
  fs::path folder() const { return cases_folder() / GetParam(); }
};

TEST_P(Families, LogitsAreTransformers) {
  const Expected expected(GetParam());
  const auto file = ModelFile::open(folder());
  const auto hybrid = as_hybrid(file.config());
  const auto reference = make_reference_backend();
  // fp64 against fp64: only the order of sums differs.
  EXPECT_LE(
      relative_l2(run(file, file.config(), *reference, DType::kF64, expected.ids), expected.logits),
      1e-10);
  EXPECT_LE(
      relative_l2(run(file, hybrid, *reference, DType::kF64, expected.ids), expected.hybrid_logits),
      1e-10);
  // fp32 against fp64: PyTorch's own fp32 is within 1e-6 of these figures.
  const auto cpu = make_cpu_backend(2);
  EXPECT_LE(relative_l2(run(file, file.config(), *cpu, DType::kF32, expected.ids), expected.logits),
            1e-5);
  EXPECT_LE(relative_l2(run(file, hybrid, *cpu, DType::kF32, expected.ids), expected.hybrid_logits),
            1e-5);
}

TEST_P(Families, ParametersAreCountedAsTransformersDoes) {
  const auto json = Json::parse(read_file(folder() / "parameters.json"));
  const auto bare = ModelFile::open(folder() / "config.json");
  EXPECT_FALSE(bare.has_weights());
  EXPECT_EQ(model::parameter_count(bare.config()), json["num_parameters"].get<int64_t>());
}

void expect_same_weights(const ModelFile& a, const ModelFile& b) {
  HostMemory memory;
  const model::ParameterSet x("weights", a.config(), DType::kF32, memory);
  const model::ParameterSet y("weights", b.config(), DType::kF32, memory);
  a.read_weights(x);
  b.read_weights(y);
  ASSERT_EQ(x.specs().size(), y.specs().size());
  for (size_t i = 0; i < x.specs().size(); ++i) {
    EXPECT_EQ(to_doubles(x.tensors()[i]), to_doubles(y.tensors()[i])) << x.specs()[i].name;
  }
}

// Tensors and their shapes, by name.
std::map<std::string, std::vector<int64_t>> stored_tensors(const fs::path& folder) {
  std::map<std::string, std::vector<int64_t>> tensors;
  const ShardedSafetensors files(folder);
  for (const std::string& name : files.names()) tensors[name] = files.find(name)->shape;
  return tensors;
}

TEST_P(Families, IsWrittenBack) {
  const auto source = ModelFile::open(folder());
  TempFolder out;
  for (const bool hybrid : {false, true}) {
    const auto config = hybrid ? as_hybrid(source.config()) : source.config();
    const fs::path target = out.path() / (hybrid ? "hybrid" : "plain");
    ModelWriter writer(target, config, source.extras(),
                       {.dtype = DType::kF32, .max_shard_bytes = hybrid ? 20'000 : 5'000'000});
    std::vector<float> buffer(static_cast<size_t>(model::parameter_count(config)));
    writer.write_weights([&](const model::ParamSpec& spec) {
      const Tensor tensor(buffer.data(), DType::kF32, std::span<const int64_t>(spec.shape));
      source.read_weight(spec.name, tensor);
      return tensor;
    });
    writer.commit();

    const auto back = ModelFile::open(target);
    EXPECT_EQ(back.config().patterns, config.patterns);
    EXPECT_EQ(back.config().family, config.family);
    EXPECT_EQ(back.config().rope, config.rope);
    EXPECT_EQ(back.config().rotary_dim, config.rotary_dim);
    expect_same_weights(source, back);
    // Transformers finds the tensors that it saved, and no others.
    EXPECT_EQ(stored_tensors(target), stored_tensors(folder()));
    const auto json = Json::parse(read_file(target / "config.json"));
    auto original = Json::parse(read_file(folder() / "config.json"));
    EXPECT_EQ(json["model_type"], hybrid ? "longgen" : original["model_type"]);
    if (hybrid) {
      const std::string architecture = json["architectures"][0];
      EXPECT_EQ(json["auto_map"]["AutoModelForCausalLM"], "modeling_longgen." + architecture);
      continue;
    }
    EXPECT_EQ(json["architectures"], original["architectures"]);
    // The keys that Transformers wrote are there with their values, but for those that the model is
    // the same without, and for names of one activation.
    for (const char* key :
         {"layer_types", "transformers_version", "rope_parameters", "max_window_layers",
          "num_key_value_heads", "original_max_position_embeddings", "hidden_act"}) {
      original.erase(key);
    }
    for (const auto& [key, value] : original.items()) {
      if (value.is_null()) continue;
      EXPECT_EQ(json[key], value) << key;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Families, ::testing::ValuesIn(case_names()),
                         [](const auto& test) { return test.param; });

TEST(FamiliesTest, FusedTensorsOfAnotherShapeAreNamed) {
  TempFolder folder;
  const fs::path source = cases_folder() / "phi3";
  fs::copy_file(source / "config.json", folder.path() / "config.json");
  const SafetensorsFile file(source / "model.safetensors");
  std::vector<F32Tensor> tensors;
  for (const auto& entry : file.tensors()) {
    F32Tensor tensor{entry.name, entry.shape, {}};
    tensor.values.resize(entry.bytes.size() / sizeof(float));
    file.read(entry,
              Tensor(tensor.values.data(), DType::kF32, std::span<const int64_t>(entry.shape)));
    if (entry.name == "model.layers.1.self_attn.qkv_proj.weight") {
      tensor.shape[0] -= 16;
      tensor.values.resize(tensor.values.size() - 16 * 32);
    }
    if (entry.name != "model.layers.0.mlp.gate_up_proj.weight") tensors.push_back(tensor);
  }
  folder.write("model.safetensors", safetensors_bytes(tensors));
  const auto model = ModelFile::open(folder.path());
  const std::string error = error_of([&] { model.check_weights(); });
  EXPECT_THAT(error, HasSubstr("tensor model.layers.0.mlp.gate_up_proj.weight is missing"));
  EXPECT_THAT(error, HasSubstr("model.layers.1.self_attn.qkv_proj.weight [48, 32] F32 should be "
                               "[64, 32]"));
  // Reading without the check is an error too, not a read beyond the tensor.
  std::vector<float> values(16 * 32);
  EXPECT_THAT(error_of([&] {
                model.read_weight("model.layers.1.self_attn.v_proj.weight",
                                  Tensor(values.data(), DType::kF32, {16, 32}));
              }),
              HasSubstr("should be [64, 32]"));
}

TEST(FamiliesTest, TensorsOfOldCheckpointsAreUnderstood) {
  // What each case's files would have called it, or held beside.
  const auto rewritten = [](const std::string& name, const std::string& from, const std::string& to,
                            const std::vector<F32Tensor>& more) {
    TempFolder folder;
    const fs::path source = cases_folder() / name;
    fs::copy_file(source / "config.json", folder.path() / "config.json");
    const SafetensorsFile file(source / "model.safetensors");
    std::vector<F32Tensor> tensors = more;
    for (const auto& entry : file.tensors()) {
      F32Tensor tensor{entry.name, entry.shape, {}};
      if (tensor.name.starts_with(from)) tensor.name = to + tensor.name.substr(from.size());
      tensor.values.resize(entry.bytes.size() / sizeof(float));
      file.read(entry,
                Tensor(tensor.values.data(), DType::kF32, std::span<const int64_t>(entry.shape)));
      tensors.push_back(std::move(tensor));
    }
    folder.write("model.safetensors", safetensors_bytes(tensors));
    expect_same_weights(ModelFile::open(source), ModelFile::open(folder.path()));
  };
  rewritten("opt", "model.decoder.", "decoder.", {});
  const std::string attention = "gpt_neox.layers.0.attention.";
  rewritten("pythia", "embed_out.", "lm_head.",
            {{attention + "bias", {1, 1, 2, 2}, {1, 0, 1, 1}},
             {attention + "masked_bias", {1}, {-1e9f}},
             {attention + "rotary_emb.inv_freq", {2}, {1, 0.01f}}});
}

}  // namespace
}  // namespace longgen::formats
