#include "longgen/formats/model_file.h"

#include <algorithm>

#include "longgen/base/error.h"
#include "longgen/base/mapped_file.h"
#include "longgen/formats/family.h"
#include "longgen/formats/gguf_architecture.h"
#include "longgen/formats/hf_config.h"
#include "longgen/formats/json.h"
#include "longgen/formats/weight_source.h"

namespace longgen::formats {

namespace fs = std::filesystem;

struct ModelFile::Impl {
  ModelKind kind = ModelKind::kConfigOnly;
  fs::path path;
  std::unique_ptr<GgufFile> gguf;
  model::ModelConfig config;
  std::vector<model::ParamSpec> specs;
  ModelExtras extras;
  std::optional<DType> config_dtype;
  std::unique_ptr<WeightSource> weights;
};

namespace {

constexpr size_t kMaxConfigBytes = size_t{16} << 20;

// Ids below zero mean "none" in many published configs.
std::optional<int64_t> read_id(const JsonObject& object, std::string_view key, int64_t vocab_size) {
  if (!object.has(key)) return std::nullopt;
  const int64_t id = object.integer(key, std::numeric_limits<int32_t>::min(), vocab_size - 1);
  return id < 0 ? std::nullopt : std::optional(id);
}

void read_ids(const JsonObject& object, int64_t vocab_size, GenerationSettings& settings) {
  if (const auto id = read_id(object, "bos_token_id", vocab_size)) settings.bos_id = id;
  if (const auto id = read_id(object, "pad_token_id", vocab_size)) settings.pad_id = id;
  if (!object.has("eos_token_id")) return;
  settings.eos_ids =
      object.integers("eos_token_id", std::numeric_limits<int32_t>::min(), vocab_size - 1);
  std::erase_if(settings.eos_ids, [](int64_t id) { return id < 0; });
}

// generation_config.json wins over config.json.
void read_generation(const fs::path& directory, const Json& config, ModelExtras& extras,
                     const std::string& config_path, int64_t vocab_size) {
  read_ids(JsonObject(config, config_path), vocab_size, extras.generation);
  const fs::path path = directory / "generation_config.json";
  if (!fs::exists(path)) return;
  Json json = read_json_file(path, kMaxConfigBytes);
  read_ids(JsonObject(json, path.string()), vocab_size, extras.generation);
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id", "transformers_version",
                          "_from_model_config"}) {
    json.erase(key);
  }
  if (!json.empty()) extras.generation_config = json.dump();
}

// tokenizer_config.json holds one template, or a list of named ones of which "default" counts.
std::string read_chat_template(const fs::path& directory) {
  const fs::path own = directory / "chat_template.jinja";
  if (fs::exists(own)) return read_text_file(own, kMaxConfigBytes);
  const fs::path path = directory / "tokenizer_config.json";
  if (!fs::exists(path)) return "";
  const Json json = read_json_file(path, kMaxConfigBytes);
  const JsonObject object(json, path.string());
  const Json* value = object.find("chat_template");
  if (value == nullptr || !value->is_array()) return object.string_or("chat_template", "");
  for (const Json& element : *value) {
    const JsonObject named(element, path.string() + ": chat_template");
    if (named.string("name") == "default") return named.string("template");
  }
  return "";
}

void refuse_other_weights(const fs::path& directory) {
  for (const char* name :
       {"pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack"}) {
    if (fs::exists(directory / name)) {
      fail(
          "{}: the weights are in {}, which is not read; save them as model.safetensors "
          "(save_pretrained of a current Transformers does)",
          directory.string(), name);
    }
  }
}

std::optional<int64_t> gguf_id(const GgufFile& file, std::string_view key, int64_t vocab_size) {
  // 2^32 - 1 stands for "none" in some files.
  if (!file.has(key) || file.integer(key, -1, 0xffffffff) == 0xffffffff) return std::nullopt;
  const int64_t id = file.integer(key, -1, vocab_size - 1);
  return id < 0 ? std::nullopt : std::optional(id);
}

GenerationSettings gguf_generation(const GgufFile& file, int64_t vocab_size) {
  GenerationSettings settings;
  settings.bos_id = gguf_id(file, "tokenizer.ggml.bos_token_id", vocab_size);
  settings.pad_id = gguf_id(file, "tokenizer.ggml.padding_token_id", vocab_size);
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"}) {
    const auto id = gguf_id(file, key, vocab_size);
    const auto& known = settings.eos_ids;
    if (id && std::find(known.begin(), known.end(), *id) == known.end()) {
      settings.eos_ids.push_back(*id);
    }
  }
  return settings;
}

// Both leave a validated configuration.
void open_hugging_face(const fs::path& config_path, const fs::path& directory,
                       model::ModelConfig& config, ModelExtras& extras,
                       std::optional<DType>& dtype) {
  const Json json = read_json_file(config_path, kMaxConfigBytes);
  HfConfig read = read_hf_config(json, config_path.string());
  config = std::move(read.model);
  dtype = read.dtype;
  extras.config_extras = std::move(read.extras);
  read_generation(directory, json, extras, config_path.string(), config.vocab_size);
  extras.chat_template = read_chat_template(directory);
}

void open_gguf(const GgufFile& file, model::ModelConfig& config, ModelExtras& extras) {
  config = find_gguf_architecture(file).read_config(file);
  try {
    config.validate();
  } catch (const Error& error) {
    fail("{}: {}", file.path().string(), error.what());
  }
  extras.generation = gguf_generation(file, config.vocab_size);
  extras.chat_template = file.string_or("tokenizer.chat_template", "");
}

}  // namespace

ModelFile ModelFile::open(const fs::path& path) {
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  if (!fs::exists(path)) {
    fail(
        "{}: there is no such file or folder; a model is a Hugging Face directory, a GGUF file or "
        "a "
        "config.json",
        path.string());
  }
  if (fs::is_directory(path)) {
    impl->kind = ModelKind::kHuggingFace;
    if (!fs::exists(path / "config.json")) {
      fail("{}: there is no config.json in this folder, so it is no Hugging Face model",
           path.string());
    }
    open_hugging_face(path / "config.json", path, impl->config, impl->extras, impl->config_dtype);
    if (ShardedSafetensors::exists(path)) {
      impl->weights = make_safetensors_source(find_family(impl->config.family, path.string()),
                                              impl->config, path);
    } else {
      refuse_other_weights(path);
    }
  } else if (GgufFile::recognise(path)) {
    impl->kind = ModelKind::kGguf;
    impl->gguf = std::make_unique<GgufFile>(path);
    open_gguf(*impl->gguf, impl->config, impl->extras);
    if (!impl->gguf->tensors().empty()) {
      impl->weights = make_gguf_source(*impl->gguf, impl->config);
    }
  } else if (path.extension() == ".json") {
    const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
    open_hugging_face(path, folder, impl->config, impl->extras, impl->config_dtype);
  } else if (path.extension() == ".gguf" && fs::is_regular_file(path)) {
    fail("{}: {}; fetch it again", path.string(),
         fs::is_empty(path) ? "the file is empty" : "no GGUF file, whatever its name says");
  } else {
    fail("{}: neither a GGUF file nor a config.json; of a Hugging Face model give the directory",
         path.string());
  }
  impl->specs = model::param_specs(impl->config);
  return ModelFile(std::move(impl));
}

ModelFile::ModelFile(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ModelFile::ModelFile(ModelFile&&) noexcept = default;
ModelFile& ModelFile::operator=(ModelFile&&) noexcept = default;
ModelFile::~ModelFile() = default;

ModelKind ModelFile::kind() const { return impl_->kind; }
const fs::path& ModelFile::path() const { return impl_->path; }

fs::path ModelFile::directory() const {
  if (impl_->kind == ModelKind::kHuggingFace) return impl_->path;
  return impl_->path.has_parent_path() ? impl_->path.parent_path() : fs::path(".");
}

const GgufFile* ModelFile::gguf() const { return impl_->gguf.get(); }
const model::ModelConfig& ModelFile::config() const { return impl_->config; }
const ModelExtras& ModelFile::extras() const { return impl_->extras; }
bool ModelFile::has_weights() const { return impl_->weights != nullptr; }

DType ModelFile::lossless_dtype() const {
  if (impl_->weights == nullptr) {
    return impl_->config_dtype == DType::kF32 ? DType::kF32 : DType::kBF16;
  }
  for (const std::string& name : impl_->weights->names()) {
    if (impl_->weights->shape(name).size() > 1 && !impl_->weights->is_bf16(name)) {
      return DType::kF32;
    }
  }
  return DType::kBF16;
}

std::vector<WeightScheme> ModelFile::weight_schemes() const {
  std::vector<WeightScheme> schemes;
  for (const model::ParamSpec& spec : impl_->specs) {
    schemes.push_back(impl_->weights == nullptr ? WeightScheme::kPlain
                                                : impl_->weights->scheme(spec));
  }
  return schemes;
}

void ModelFile::read_weights(const model::ParameterSet& weights) const {
  check_weights();
  for (size_t i = 0; i < weights.specs().size(); ++i) {
    const model::ParamSpec& spec = weights.specs()[i];
    if (weights.scheme(i) == WeightScheme::kPlain) {
      read_finite(*impl_->weights, spec, weights.tensors()[i]);
    } else {
      impl_->weights->read_quantized(spec, weights.view(i));
      impl_->weights->drop_resident();
    }
  }
  impl_->weights->drop_resident();
}

void ModelFile::check_weights() const {
  if (impl_->weights == nullptr) {
    fail(
        "{}: there are no weights here, only a configuration; give a Hugging Face directory with "
        "model.safetensors or a GGUF file",
        impl_->path.string());
  }
  formats::check_weights(*impl_->weights, impl_->config, impl_->path.string());
}

void ModelFile::read_weight(std::string_view name, const Tensor& destination) const {
  for (const model::ParamSpec& spec : impl_->specs) {
    if (spec.name != name || impl_->weights == nullptr) continue;
    return read_finite(*impl_->weights, spec, destination);
  }
  fail("{}: there is no parameter {}", impl_->path.string(), name);
}

}  // namespace longgen::formats
