// GGUF architectures: the families' models written as llama.cpp's converter lays them out must read
// back as the Hugging Face directories do; and models split over several files.
#include <gmock/gmock.h>

#include <cmath>

#include "formats_testing.h"
#include "longgen/formats/model_file.h"
#include "tests/testing/golden_model.h"

namespace longgen::formats {
namespace {

using ::testing::HasSubstr;
using namespace longgen::testing;
namespace fs = std::filesystem;

// The parameters of a family's model, by canonical name.
struct Source {
  explicit Source(const std::string& name)
      : file(ModelFile::open(fs::path(LONGGEN_SOURCE_DIR) / "tests/golden/families" / name)),
        weights("weights", file.config(), DType::kF32, memory) {
    file.read_weights(weights);
  }
  const model::ModelConfig& config() const { return file.config(); }
  std::vector<float> values(const std::string& name) const {
    const Tensor& t = weights[name];
    return {t.data<float>(), t.data<float>() + t.numel()};
  }
  // Rows of several parameters one after the other.
  std::vector<float> joined(const std::vector<std::string>& names) const {
    std::vector<float> all;
    for (const std::string& name : names) {
      const auto own = values(name);
      all.insert(all.end(), own.begin(), own.end());
    }
    return all;
  }

  HostMemory memory;
  ModelFile file;
  model::ParameterSet weights;
};

void add_keys(GgufBuilder& gguf, const std::string& architecture, const model::ModelConfig& c) {
  const auto key = [&](const char* name) { return architecture + "." + name; };
  const auto count = [&](const char* name, int64_t value) {
    gguf.u32(key(name), static_cast<uint32_t>(value));
  };
  gguf.string("general.architecture", architecture);
  count("block_count", c.num_layers);
  count("context_length", c.max_position_embeddings);
  count("embedding_length", c.hidden_size);
  count("feed_forward_length", c.intermediate_size);
  count("attention.head_count", c.num_heads);
  count("rope.dimension_count", c.rotary_dim);
  gguf.f32(key("rope.freq_base"), static_cast<float>(c.rope.theta));
  if (architecture == "gptneox") {
    gguf.f32(key("attention.layer_norm_epsilon"), static_cast<float>(c.norm_eps));
    gguf.add<uint8_t>(key("use_parallel_residual"), 7, c.parallel_residual);
    return;
  }
  count("attention.head_count_kv", c.num_kv_heads);
  count("attention.key_length", c.head_dim);
  count("attention.value_length", c.head_dim);
  gguf.f32(key("attention.layer_norm_rms_epsilon"), static_cast<float>(c.norm_eps));
}

// q, k, v and, for Phi-3, gate and up share a tensor.
bool add_fused(GgufBuilder& gguf, const Source& source, const std::string& block,
               const std::string& prefix, const std::string& stem, const std::string& kind) {
  const auto add = [&](const std::string& name, const std::vector<std::string>& parts) {
    std::vector<std::string> names;
    for (const std::string& part : parts) names.push_back(prefix + part + kind);
    const auto values = source.joined(names);
    const auto columns = kind == ".bias" ? 1 : static_cast<uint64_t>(source.config().hidden_size);
    std::vector<uint64_t> dims = {values.size() / columns};
    if (kind == ".weight") dims.insert(dims.begin(), columns);
    gguf.tensor(block + name + kind, dims, 0, bytes_of(values));
  };
  if (stem == "self_attn.q_proj") {
    add("attn_qkv", {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"});
    return true;
  }
  const bool gated = source.config().gated_mlp;
  if (gated && stem == "mlp.gate_proj") add("ffn_up", {"mlp.gate_proj", "mlp.up_proj"});
  return stem == "self_attn.k_proj" || stem == "self_attn.v_proj" ||
         (gated && (stem == "mlp.gate_proj" || stem == "mlp.up_proj"));
}

GgufBuilder build(const Source& source, const std::string& architecture) {
  static const std::map<std::string, std::string> kNames = {
      {"input_layernorm", "attn_norm"},    {"post_attention_layernorm", "ffn_norm"},
      {"self_attn.q_proj", "attn_q"},      {"self_attn.k_proj", "attn_k"},
      {"self_attn.v_proj", "attn_v"},      {"self_attn.o_proj", "attn_output"},
      {"self_attn.q_norm", "attn_q_norm"}, {"self_attn.k_norm", "attn_k_norm"},
      {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
      {"mlp.down_proj", "ffn_down"},       {"model.embed_tokens", "token_embd"},
      {"model.norm", "output_norm"},       {"lm_head", "output"}};
  GgufBuilder gguf;
  add_keys(gguf, architecture, source.config());
  const bool fused = architecture == "phi3" || architecture == "gptneox";
  for (const model::ParamSpec& spec : source.weights.specs()) {
    const size_t dot = spec.name.rfind('.');
    const std::string kind = spec.name.substr(dot);
    std::string stem = spec.name.substr(0, dot), block, prefix;
    if (stem.starts_with("model.layers.")) {
      const size_t end = stem.find('.', 13);
      block = "blk." + stem.substr(13, end - 13) + ".";
      prefix = stem.substr(0, end + 1);
      stem = stem.substr(end + 1);
    }
    if (fused && add_fused(gguf, source, block, prefix, stem, kind)) continue;
    gguf.tensor(block + kNames.at(stem) + kind, {spec.shape.rbegin(), spec.shape.rend()}, 0,
                bytes_of(source.values(spec.name)));
  }
  return gguf;
}

void expect_same_model(const Source& source, const fs::path& path) {
  const auto file = ModelFile::open(path);
  const model::ModelConfig &a = file.config(), &b = source.config();
  EXPECT_EQ(a.family, b.family);
  EXPECT_EQ(a.rotary_dim, b.rotary_dim);
  EXPECT_EQ(a.rope, b.rope);
  EXPECT_EQ(a.norm_eps, b.norm_eps);
  EXPECT_EQ(a.qk_norm, b.qk_norm);
  EXPECT_EQ(a.parallel_residual, b.parallel_residual);
  EXPECT_EQ(a.tie_word_embeddings, b.tie_word_embeddings);
  EXPECT_EQ(a.max_position_embeddings, b.max_position_embeddings);
  HostMemory memory;
  const model::ParameterSet weights("weights", a, DType::kF32, memory);
  file.read_weights(weights);
  ASSERT_EQ(weights.specs().size(), source.weights.specs().size());
  for (size_t i = 0; i < weights.specs().size(); ++i) {
    const std::string& name = weights.specs()[i].name;
    EXPECT_EQ(to_doubles(weights.tensors()[i]), to_doubles(source.weights[name])) << name;
  }
}

TEST(GgufFamilies, ReadAsTheirHuggingFaceDirectories) {
  TempFolder folder;
  for (const auto& [name, architecture] : std::map<std::string, std::string>{
           {"qwen2", "qwen2"}, {"qwen3", "qwen3"}, {"phi3", "phi3"}, {"pythia", "gptneox"}}) {
    SCOPED_TRACE(name);
    const Source source(name);
    expect_same_model(source, folder.write("m.gguf", build(source, architecture).build()));
  }
}

TEST(GgufFamilies, QuantisedFusedTensorsAreCutByRows) {
  const Source source("phi3");
  GgufBuilder gguf = build(source, "phi3");
  const std::string name = "blk.1.attn_qkv.weight";
  gguf.erase_tensor(name);
  std::string blocks;  // Q8_0, one block of 32 a row: row r holds r
  for (int row = 0; row < 64; ++row) {
    blocks += bytes_of(float_to_f16(1.0f)) + std::string(32, static_cast<char>(row));
  }
  gguf.tensor(name, {32, 64}, 8, blocks);
  TempFolder folder;
  const auto file = ModelFile::open(folder.write("m.gguf", gguf.build()));
  std::vector<float> v(16 * 32);
  file.read_weight("model.layers.1.self_attn.v_proj.weight",
                   Tensor(v.data(), DType::kF32, {16, 32}));
  for (size_t i = 0; i < v.size(); ++i) ASSERT_EQ(v[i], static_cast<float>(48 + i / 32));
}

TEST(GgufFamilies, WindowsAndLongRope) {
  TempFolder folder;
  const Source source("phi3");
  const auto model = [&](const std::function<void(GgufBuilder&)>& change) {
    GgufBuilder gguf = build(source, "phi3");
    change(gguf);
    return ModelFile::open(folder.write("m.gguf", gguf.build())).config();
  };
  const auto windowed = model([](auto& g) { g.u32("phi3.attention.sliding_window", 100); });
  EXPECT_EQ(windowed.native_window, 100);
  EXPECT_EQ(windowed.max_position_embeddings, 100);
  EXPECT_EQ(model([](auto& g) { g.u32("phi3.attention.sliding_window", 128); }).native_window, 0);
  // Phi-3-mini 4K has 2,047, though old files do not say so.
  const auto change_context = [](auto& g) {
    g.erase("phi3.context_length");
    g.u32("phi3.context_length", 4096);
  };
  EXPECT_EQ(model(change_context).native_window, 2047);
  EXPECT_THAT(
      error_of([&] {
        model([](auto& g) { g.tensor("rope_factors_long.weight", {6}, 0, std::string(24, '\0')); });
      }),
      HasSubstr("rope_factors_long.weight: \"longrope\" scaling is not supported"));
}

// A Llama 3 of 8,192 original positions, whose factors llama.cpp's converter computed in f32.
GgufBuilder llama3_gguf(double factor, float spoil) {
  auto config = tiny_config();
  config.head_dim = config.rotary_dim = 64;
  config.rope.theta = 500000;
  GgufBuilder gguf = tiny_gguf(config);
  gguf.u32("llama.attention.key_length", 64);
  gguf.u32("llama.attention.value_length", 64);
  std::vector<float> divisors;
  for (int i = 0; i < 32; ++i) {
    const float wavelength =
        2 * static_cast<float>(M_PI) * std::pow(500000.0f, static_cast<float>(i) / 32);
    const auto f = static_cast<float>(factor);
    const float smooth = (8192 / wavelength - 1) / 3;
    divisors.push_back(wavelength < 2048   ? 1
                       : wavelength > 8192 ? f
                                           : 1 / ((1 - smooth) / f + smooth));
  }
  divisors[20] *= spoil;
  gguf.tensor("rope_freqs.weight", {32}, 0, bytes_of(divisors));
  return gguf;
}

TEST(GgufFamilies, Llama3sFrequencyFactorsBecomeItsRule) {
  TempFolder folder;
  for (const double factor : {8.0, 32.0}) {
    const auto path = folder.write("m.gguf", llama3_gguf(factor, 1).build());
    const auto file = ModelFile::open(path);
    file.check_weights();
    const model::RopeConfig& rope = file.config().rope;
    EXPECT_EQ(rope.kind, model::RopeKind::kLlama3);
    EXPECT_EQ(rope.factor, factor);
    EXPECT_EQ(rope.low_freq_factor, 1);
    EXPECT_EQ(rope.high_freq_factor, 4);
    EXPECT_EQ(rope.original_max_position_embeddings, 8192);
  }
  for (const float spoil : {1.01f, std::nanf("")}) {
    const auto path = folder.write("m.gguf", llama3_gguf(8, spoil).build());
    EXPECT_THAT(error_of([&] { ModelFile::open(path); }),
                HasSubstr("rope_freqs.weight has frequency factors that are not Llama 3's"));
  }
}

// tiny_gguf's tensors dealt out to `count` files, the first with the metadata.
std::vector<GgufBuilder> split(const model::ModelConfig& config, uint16_t count) {
  const TempFolder folder;
  const GgufFile whole(folder.write("m.gguf", tiny_gguf(config).build()));
  std::vector<GgufBuilder> parts(count);
  parts[0] = tiny_gguf(config);
  for (const GgufTensor& tensor : whole.tensors()) parts[0].erase_tensor(tensor.name);
  for (size_t i = 0; i < whole.tensors().size(); ++i) {
    const GgufTensor& tensor = whole.tensors()[i];
    parts[i % count].tensor(
        tensor.name, {tensor.shape.rbegin(), tensor.shape.rend()}, tensor.type,
        {reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size()});
  }
  for (uint16_t i = 0; i < count; ++i) {
    parts[i].add<uint16_t>("split.no", 2, i);
    parts[i].add<uint16_t>("split.count", 2, count);
    parts[i].add<int32_t>("split.tensors.count", 5, static_cast<int32_t>(whole.tensors().size()));
  }
  return parts;
}

class GgufSplit : public ::testing::Test {
 protected:
  fs::path write(const std::vector<GgufBuilder>& parts, size_t count) const {
    for (size_t i = 0; i < parts.size(); ++i) folder_.write(name(i, count), parts[i].build());
    return folder_.path() / name(0, count);
  }
  static std::string name(size_t part, size_t count) {
    return fmt::format("model-{:05}-of-{:05}.gguf", part + 1, count);
  }
  TempFolder folder_;
};

TEST_F(GgufSplit, ReadsAllPartsAsOneModel) {
  const auto config = tiny_config();
  const auto file = ModelFile::open(write(split(config, 3), 3));
  HostMemory memory;
  const model::ParameterSet weights("weights", file.config(), DType::kF32, memory);
  file.read_weights(weights);
  for (const F32Tensor& tensor : tiny_weights(config)) {
    const float* values = weights[tensor.name].data<float>();
    EXPECT_EQ(std::vector<float>(values, values + tensor.values.size()), tensor.values);
  }
}

TEST_F(GgufSplit, NamesThePartThatIsMissingOrWrong) {
  const auto config = tiny_config();
  const auto error = [&](const fs::path& path) { return error_of([&] { GgufFile file(path); }); };
  const auto parts = split(config, 3);
  const fs::path first = write(parts, 3);
  EXPECT_EQ(error(first), "");
  EXPECT_THAT(error(folder_.path() / name(1, 3)),
              HasSubstr("this is part 2 of 3; give the first, " + first.string()));
  fs::rename(first, folder_.path() / "renamed.gguf");
  EXPECT_THAT(error(folder_.path() / "renamed.gguf"),
              HasSubstr("its name should end in -00001-of-00003.gguf"));
  write(parts, 3);
  fs::remove(folder_.path() / name(2, 3));
  EXPECT_THAT(error(first),
              HasSubstr("part 3 of 3 is missing: " + (folder_.path() / name(2, 3)).string()));
  write({parts[0], parts[2], parts[1]}, 3);
  EXPECT_THAT(error(first), HasSubstr(name(1, 3) + ": metadata keys split.no and split.count say "
                                                   "part 3 of 3, but it should be 2 of 3"));
  write({parts[0], split(config, 4)[1], parts[2]}, 3);
  EXPECT_THAT(error(first), HasSubstr("say part 2 of 4, but it should be 2 of 3"));
  auto changed = parts;
  changed[1].erase("split.no");
  write(changed, 3);
  EXPECT_THAT(error(first), HasSubstr(name(1, 3) + ": metadata key split.no is missing"));
  changed = parts;
  changed[1].erase_tensor("blk.0.attn_norm.weight");
  write(changed, 3);
  EXPECT_THAT(error(first), HasSubstr("split.tensors.count is 21, but the 3 parts hold 20"));
  changed = parts;
  changed[2].tensor("token_embd.weight", {1}, 0, "xxxx");
  write(changed, 3);
  EXPECT_THAT(error(first), HasSubstr("tensor token_embd.weight is in " + first.string()));
  write(parts, 3);
  folder_.write(name(1, 3), std::string_view(parts[1].build()).substr(0, 4000));
  EXPECT_THAT(error(first), HasSubstr(name(1, 3) + ": tensor"));
}

// A count that the file claims does not open more files than there are.
TEST_F(GgufSplit, ManyPartsAreNotBelieved) {
  auto parts = split(tiny_config(), 1);
  parts[0].erase("split.count");
  parts[0].add<uint16_t>("split.count", 2, 65535);
  const fs::path path = folder_.write("m-00001-of-65535.gguf", parts[0].build());
  EXPECT_THAT(error_of([&] { GgufFile file(path); }), HasSubstr("part 2 of 65535 is missing"));
}

}  // namespace
}  // namespace longgen::formats
