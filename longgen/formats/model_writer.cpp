#include "longgen/formats/model_writer.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <map>
#include <vector>

#include "embedded/modeling_longgen.h"
#include "longgen/base/atomic_file.h"
#include "longgen/base/error.h"
#include "longgen/base/units.h"
#include "longgen/formats/convert_elements.h"
#include "longgen/formats/family.h"
#include "longgen/formats/hf_config.h"
#include "longgen/formats/json.h"
#include "longgen/formats/safetensors.h"

namespace longgen::formats {

namespace fs = std::filesystem;

namespace {

constexpr std::array<std::string_view, 11> kModelFiles = {
    "config.json",    "generation_config.json",  "modeling_longgen.py", "chat_template.jinja",
    "tokenizer.json", "tokenizer_config.json",   "tokenizer.model",     "vocab.json",
    "merges.txt",     "special_tokens_map.json", "added_tokens.json"};

bool is_weight_file(const std::string& name) {
  return name.ends_with(".safetensors") || name == "model.safetensors.index.json";
}

bool is_model_file(const fs::directory_entry& entry) {
  const std::string name = entry.path().filename().string();
  return !entry.is_directory() &&
         (is_weight_file(name) ||
          std::find(kModelFiles.begin(), kModelFiles.end(), name) != kModelFiles.end());
}

// Absolute, links resolved, no trailing "/".
fs::path resolve(const fs::path& directory) {
  fs::path path = fs::weakly_canonical(fs::absolute(directory));
  if (!path.has_filename()) path = path.parent_path();
  require(path.has_filename(), "{}: a model cannot be written there; choose a folder",
          directory.string());
  return path;
}

OrderedJson id_or_null(const std::optional<int64_t>& id) {
  return id ? OrderedJson(*id) : OrderedJson(nullptr);
}

OrderedJson eos_json(const std::vector<int64_t>& ids) {
  if (ids.empty()) return nullptr;
  return ids.size() == 1 ? OrderedJson(ids[0]) : OrderedJson(ids);
}

// Present keys win over what Transformers would assume (bos 1, eos 2 for Llama), so absent ids are
// written as null.
template <typename J>
void put_ids(const GenerationSettings& settings, J& json) {
  json["bos_token_id"] = id_or_null(settings.bos_id);
  json["eos_token_id"] = eos_json(settings.eos_ids);
  json["pad_token_id"] = id_or_null(settings.pad_id);
}

Json parse_extras(const std::string& text, const char* what) {
  return text.empty() ? Json::object() : parse_json(text, what);
}

// A tensor of the file and the parameters that are its rows, each with where.
struct StoredTensor {
  struct Part {
    model::ParamSpec spec;
    StoredRows rows;
  };
  std::string name;
  std::vector<int64_t> shape;
  std::vector<Part> parts;

  int64_t numel() const {
    int64_t n = 1;
    for (const int64_t size : shape) n *= size;
    return n;
  }
};

// In the order of their first parameters.
std::vector<StoredTensor> stored_tensors(const model::ModelConfig& config, const Family& family) {
  std::vector<StoredTensor> tensors;
  std::map<std::string, size_t> index;
  for (const model::ParamSpec& spec : model::param_specs(config)) {
    StoredRows rows = family.stored_rows(config, spec);
    const auto [at, fresh] = index.try_emplace(rows.tensor, tensors.size());
    if (fresh) {
      tensors.push_back({.name = rows.tensor, .shape = spec.shape});
      tensors.back().shape[0] = rows.total;
    }
    tensors[at->second].parts.push_back({spec, std::move(rows)});
  }
  return tensors;
}

struct Shard {
  std::string file;
  std::vector<StoredTensor> tensors;
};

// Cuts the tensors, in order, so that no shard of several exceeds max_bytes.
std::vector<Shard> cut_shards(std::vector<StoredTensor> tensors, int64_t element,
                              int64_t max_bytes) {
  std::vector<Shard> shards(1);
  int64_t bytes = 0;
  for (StoredTensor& tensor : tensors) {
    const int64_t size = tensor.numel() * element;
    if (!shards.back().tensors.empty() && bytes + size > max_bytes) {
      shards.emplace_back();
      bytes = 0;
    }
    shards.back().tensors.push_back(std::move(tensor));
    bytes += size;
  }
  if (shards.size() == 1) {
    shards[0].file = "model.safetensors";
    return shards;
  }
  for (size_t i = 0; i < shards.size(); ++i) {
    shards[i].file = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
  }
  return shards;
}

std::string index_text(const std::vector<Shard>& shards, int64_t element) {
  Json json;
  int64_t total = 0;
  for (const Shard& shard : shards) {
    for (const StoredTensor& tensor : shard.tensors) {
      json["weight_map"][tensor.name] = shard.file;
      total += tensor.numel() * element;
    }
  }
  json["metadata"]["total_size"] = total;
  return json.dump(2) + "\n";
}

// Puts a parameter's rows at their place in a stored tensor of several.
void place_rows(const StoredTensor::Part& part, const Tensor& tensor, DType dtype,
                std::byte* stored) {
  const int64_t count = part.spec.shape[0], width = part.spec.numel() / count;
  const int64_t bytes = width * dtype_size(dtype);
  const auto* from = static_cast<const std::byte*>(tensor.raw());
  for (int64_t row = 0; row < count; ++row) {
    convert_elements(tensor.dtype(), from + row * width * dtype_size(tensor.dtype()), dtype,
                     stored + part.rows.stored_row(row) * bytes, width);
  }
}

}  // namespace

void check_model_output(const fs::path& directory, ExistingOutput existing) {
  const fs::path target = resolve(directory);
  if (!fs::exists(target)) return;
  if (!fs::is_directory(target)) {
    fail("{} exists and is not a folder; choose another output", target.string());
  }
  if (fs::is_empty(target) || existing == ExistingOutput::kAddTo) return;
  if (existing == ExistingOutput::kRefuse) {
    fail("folder {} is not empty; choose another output, or replace the model in it with --force",
         target.string());
  }
  for (const fs::directory_entry& entry : fs::directory_iterator(target)) {
    if (!is_model_file(entry)) {
      fail(
          "folder {} holds {}, which is no part of a model, so it is not replaced even with "
          "--force; move it away or choose another output",
          target.string(), entry.path().filename().string());
    }
  }
}

ModelWriter::ModelWriter(const fs::path& directory, const model::ModelConfig& config,
                         const ModelExtras& extras, const ModelWriteOptions& options)
    : target_(resolve(directory)), config_(config), options_(options) {
  require(options.dtype == DType::kF32 || options.dtype == DType::kBF16,
          "models are written as f32 or bf16, not {}", dtype_name(options.dtype));
  config_.validate();
  check_target();
  const fs::path staging =
      target_.parent_path() / fmt::format(".{}.tmp-{}", target_.filename().string(), getpid());
  create_folders(target_.parent_path());
  std::error_code error;
  remove_leftovers(target_.parent_path(), fmt::format(".{}.tmp-", target_.filename().string()));
  check_space();
  fs::remove_all(staging, error);  // of an earlier process with this number
  if (!fs::create_directory(staging, error)) {
    fail("cannot create folder {}: {}", staging.string(), error.message());
  }
  staging_ = staging;
  try {
    write_config_files(extras);
  } catch (...) {
    fs::remove_all(staging_, error);
    throw;
  }
}

ModelWriter::~ModelWriter() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(staging_, ignored);
}

void ModelWriter::check_target() const { check_model_output(target_, options_.existing); }

void ModelWriter::check_space() const {
  const int64_t needed = model::parameter_count(config_) * dtype_size(options_.dtype);
  std::error_code error;
  const fs::space_info space = fs::space(target_.parent_path(), error);
  if (!error && space.available < static_cast<uintmax_t>(needed)) {
    fail(
        "{}: the model takes {}, but the disk has only {} left; free some or choose another output",
        target_.string(), format_bytes(needed),
        format_bytes(static_cast<int64_t>(space.available)));
  }
}

void ModelWriter::write_config_files(const ModelExtras& extras) const {
  Json config_extras = parse_extras(extras.config_extras, "keys kept of config.json");
  put_ids(extras.generation, config_extras);
  write_file_atomically(staging_ / "config.json",
                        write_hf_config(config_, options_.dtype, config_extras.dump()));

  OrderedJson generation;
  put_ids(extras.generation, generation);
  const Json kept = parse_extras(extras.generation_config, "keys kept of generation_config.json");
  for (const auto& [key, value] : kept.items()) {
    if (!generation.contains(key)) generation[key] = value;
  }
  write_file_atomically(staging_ / "generation_config.json", generation.dump(2) + "\n");

  if (!extras.chat_template.empty()) {
    write_file_atomically(staging_ / "chat_template.jinja", extras.chat_template);
  }
  if (config_.is_hybrid()) {
    AtomicFile file(staging_ / "modeling_longgen.py");
    file.write(embedded::modeling_longgen());
    file.commit();
  }
}

void ModelWriter::write_weights(const TensorProvider& tensor_of) {
  const Family& family = find_family(config_.family, "model to be written");
  const int64_t element = dtype_size(options_.dtype);
  const auto shards =
      cut_shards(stored_tensors(config_, family), element, options_.max_shard_bytes);
  const auto finite_tensor_of = [&](const model::ParamSpec& spec) {
    const Tensor tensor = tensor_of(spec);
    if (has_nonfinite(tensor)) {
      fail("tensor {} holds NaN or infinity; the model is not written to {}", spec.name,
           target_.string());
    }
    return tensor;
  };
  std::vector<std::byte> joined;  // fused projections
  for (const Shard& shard : shards) {
    std::vector<SafetensorsSpec> specs;
    for (const StoredTensor& tensor : shard.tensors) {
      specs.push_back({tensor.name, options_.dtype, tensor.shape});
    }
    // Transformers wants to know that the tensors are PyTorch's.
    SafetensorsWriter file(staging_ / shard.file, std::move(specs), {{"format", "pt"}});
    for (const StoredTensor& tensor : shard.tensors) {
      if (tensor.parts.size() == 1) {
        file.write(finite_tensor_of(tensor.parts[0].spec));
        continue;
      }
      joined.resize(static_cast<size_t>(tensor.numel() * element));
      for (const StoredTensor::Part& part : tensor.parts) {
        place_rows(part, finite_tensor_of(part.spec), options_.dtype, joined.data());
      }
      file.write(Tensor(joined.data(), options_.dtype, std::span<const int64_t>(tensor.shape)));
    }
    file.commit();
  }
  if (shards.size() > 1) {
    write_file_atomically(staging_ / "model.safetensors.index.json", index_text(shards, element));
  }
  weights_written_ = true;
}

void ModelWriter::write_weights(const model::ParameterSet& weights) {
  write_weights([&](const model::ParamSpec& spec) { return weights[spec.name]; });
}

// Exchanges the two folders in one step where the file system can; else the old one is moved aside
// for the moment between two renames.
void ModelWriter::replace_target() const {
  if (renameat2(AT_FDCWD, staging_.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) == 0) {
    fs::remove_all(staging_);
    return;
  }
  fs::path aside = staging_;
  aside += "-old";
  fs::rename(target_, aside);
  fs::rename(staging_, target_);
  fs::remove_all(aside);
}

void ModelWriter::add_to_target() const {
  fs::remove(target_ / "config.json");
  sync_directory(target_);
  std::vector<fs::path> old, fresh;
  for (const auto& entry : fs::directory_iterator(target_)) {
    if (is_weight_file(entry.path().filename().string())) old.push_back(entry.path());
  }
  for (const auto& entry : fs::directory_iterator(staging_)) fresh.push_back(entry.path());
  for (const fs::path& path : old) fs::remove(path);
  for (const fs::path& path : fresh) {
    if (path.filename() != "config.json") fs::rename(path, target_ / path.filename());
  }
  sync_directory(target_);
  fs::rename(staging_ / "config.json", target_ / "config.json");
  sync_directory(target_);
  fs::remove_all(staging_);
}

void ModelWriter::commit() {
  require(weights_written_, "{}: the model's weights were not written", target_.string());
  check_target();  // it may have changed since
  sync_directory(staging_);
  try {
    if (!fs::exists(target_) || fs::is_empty(target_)) {
      fs::rename(staging_, target_);
    } else if (options_.existing == ExistingOutput::kAddTo) {
      add_to_target();
    } else {
      replace_target();
    }
  } catch (const fs::filesystem_error& error) {
    if (error.code() == std::errc::directory_not_empty) {
      fail("{} was filled by another program meanwhile; choose another output", target_.string());
    }
    fail("cannot put the model in place at {}: {}", target_.string(), error.what());
  }
  committed_ = true;
  sync_directory(target_.parent_path());
}

}  // namespace longgen::formats
