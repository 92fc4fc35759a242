#include "tests/testing/golden_model.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "longgen/formats/json.h"

namespace longgen::testing {
namespace {

std::filesystem::path folder() {
  return std::filesystem::path(LONGGEN_SOURCE_DIR) / "tests/golden/models";
}

Activation activation(const std::string& name) {
  if (name == "silu") return Activation::kSilu;
  if (name == "gelu") return Activation::kGelu;
  if (name == "gelu_tanh") return Activation::kGeluTanh;
  if (name == "relu") return Activation::kRelu;
  fail("golden model: activation {}", name);
}

model::RopeKind rope_kind(const std::string& name) {
  if (name == "default") return model::RopeKind::kDefault;
  if (name == "linear") return model::RopeKind::kLinear;
  if (name == "llama3") return model::RopeKind::kLlama3;
  if (name == "yarn") return model::RopeKind::kYarn;
  fail("golden model: rope type {}", name);
}

model::RopeConfig rope_config(const formats::Json& j) {
  model::RopeConfig r;
  r.theta = j.at("theta");
  r.kind = rope_kind(j.at("type"));
  r.factor = j.value("factor", r.factor);
  r.low_freq_factor = j.value("low_freq_factor", r.low_freq_factor);
  r.high_freq_factor = j.value("high_freq_factor", r.high_freq_factor);
  r.original_max_position_embeddings = j.value("original_max_position_embeddings", int64_t{0});
  r.beta_fast = j.value("beta_fast", r.beta_fast);
  r.beta_slow = j.value("beta_slow", r.beta_slow);
  if (j.contains("attention_factor")) r.attention_factor = j.at("attention_factor").get<double>();
  return r;
}

AttentionPattern pattern(const formats::Json& j) {
  AttentionPattern p;
  p.block_size = j.at("block_size");
  p.sink_blocks = j.at("sink_blocks");
  p.local_blocks =
      j.at("local_blocks").is_null() ? AttentionPattern::kAll : j.at("local_blocks").get<int64_t>();
  p.stride = j.at("stride");
  p.offsets = j.at("offsets").get<std::vector<int64_t>>();
  return p;
}

model::ModelConfig model_config(const formats::Json& j) {
  model::ModelConfig c;
  c.family = j.at("family");
  c.vocab_size = j.at("vocab_size");
  c.hidden_size = j.at("hidden_size");
  c.intermediate_size = j.at("intermediate_size");
  c.num_layers = j.at("num_hidden_layers");
  c.num_heads = j.at("num_attention_heads");
  c.num_kv_heads = j.at("num_key_value_heads");
  c.head_dim = j.at("head_dim");
  c.max_position_embeddings = j.at("max_position_embeddings");
  c.norm = j.at("norm") == "rms" ? NormKind::kRms : NormKind::kLayer;
  c.norm_eps = j.at("norm_eps");
  c.norm_bias = j.at("norm_bias");
  c.qkv_bias = j.at("qkv_bias");
  c.o_bias = j.at("o_bias");
  c.mlp_bias = j.at("mlp_bias");
  c.activation = activation(j.at("hidden_act"));
  c.gated_mlp = j.at("gated_mlp");
  c.parallel_residual = j.at("parallel_residual");
  c.qk_norm = j.at("qk_norm");
  const bool rope = j.at("position") == "rope";
  c.position = rope ? model::PositionKind::kRope : model::PositionKind::kLearned;
  c.rotary_dim = j.at("rotary_dim");
  if (rope) c.rope = rope_config(j.at("rope"));
  c.learned_position_offset = j.value("learned_position_offset", int64_t{0});
  c.tie_word_embeddings = j.at("tie_word_embeddings");
  for (const int64_t index : j.at("layer_patterns")) {
    c.patterns.push_back(pattern(j.at("patterns").at(static_cast<size_t>(index))));
  }
  return c;
}

}  // namespace

std::vector<std::string> golden_cases() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder())) {
    if (entry.path().extension() == ".safetensors") names.push_back(entry.path().stem());
  }
  require(!names.empty(), "no golden models in {}", folder().string());
  std::sort(names.begin(), names.end());
  return names;
}

GoldenModel::GoldenModel(const std::string& name)
    : file_(std::make_unique<formats::SafetensorsFile>(folder() / (name + ".safetensors"))) {
  const formats::Json json = formats::read_json_file(folder() / (name + ".json"));
  config = model_config(json);
  ids = integers("ids");
  labels = integers("labels");
  if (json.at("documents") == "concat") return;
  const auto starts = integers("document_starts"), lengths = integers("document_lengths");
  for (size_t i = 0; i < starts.size(); ++i) documents.push_back({starts[i], lengths[i]});
}

std::unique_ptr<model::ParameterSet> GoldenModel::weights(DType dtype,
                                                          MemoryResource& memory) const {
  auto weights = std::make_unique<model::ParameterSet>("weights", config, dtype, memory);
  for (size_t i = 0; i < weights->specs().size(); ++i) {
    file_->read("param." + weights->specs()[i].name, weights->tensors()[i]);
  }
  return weights;
}

std::vector<double> GoldenModel::values(const std::string& name) const {
  const auto& entry = (*file_)[name];
  require(entry.dtype == DType::kF64, "golden {} is {}, not F64", name, entry.dtype_name);
  std::vector<double> values(entry.bytes.size() / sizeof(double));
  file_->read(entry, Tensor(values.data(), DType::kF64, std::span<const int64_t>(entry.shape)));
  return values;
}

bool GoldenModel::is_real(int64_t row) const {
  if (documents.empty()) return true;
  return std::any_of(documents.begin(), documents.end(), [&](const DocumentRange& d) {
    return row >= d.row_begin && row < d.row_begin + d.row_count;
  });
}

int64_t GoldenModel::valid_labels() const {
  return std::count_if(labels.begin(), labels.end(), [](int32_t label) { return label >= 0; });
}

std::vector<int32_t> GoldenModel::integers(const std::string& name) const {
  const auto& entry = (*file_)[name];
  require(entry.dtype == DType::kI64, "golden {} is {}, not I64", name, entry.dtype_name);
  std::vector<int64_t> wide(entry.bytes.size() / sizeof(int64_t));
  std::memcpy(wide.data(), entry.bytes.data(), entry.bytes.size());
  return {wide.begin(), wide.end()};
}

std::vector<double> to_doubles(const Tensor& x) {
  std::vector<double> values(static_cast<size_t>(x.numel()));
  for (size_t i = 0; i < values.size(); ++i) {
    switch (x.dtype()) {
      case DType::kF64:
        values[i] = x.data<double>()[i];
        break;
      case DType::kF32:
        values[i] = x.data<float>()[i];
        break;
      case DType::kBF16:
        values[i] = static_cast<double>(x.data<bf16>()[i]);
        break;
      default:
        fail("{} as doubles", x.shape_string());
    }
  }
  return values;
}

double relative_l2(const std::vector<double>& a, const std::vector<double>& b) {
  require(a.size() == b.size(), "{} values against {}", a.size(), b.size());
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return norm < 1e-18 ? std::sqrt(difference) : std::sqrt(difference / norm);
}

}  // namespace longgen::testing
