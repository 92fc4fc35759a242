#include "longgen/formats/weight_source.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "longgen/base/error.h"
#include "longgen/formats/convert_elements.h"
#include "longgen/formats/gguf_architecture.h"
#include "longgen/formats/quantized_blocks.h"

namespace longgen::formats {
namespace {

bool same_bytes(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size()) == 0);
}

// The files' names by standard name.
using NameMap = std::map<std::string, std::string, std::less<>>;

void add_name(NameMap& map, std::string name, const std::string& stored, const std::string& file) {
  const auto [it, fresh] = map.try_emplace(std::move(name), stored);
  if (!fresh) fail("{}: tensors {} and {} are the same parameter", file, it->second, stored);
}

std::vector<std::string> keys(const NameMap& map) {
  std::vector<std::string> names;
  for (const auto& [name, stored] : map) names.push_back(name);
  return names;
}

// The shape that the stored tensor of a parameter must have.
std::vector<int64_t> stored_shape(const StoredRows& rows, const model::ParamSpec& spec) {
  std::vector<int64_t> shape = spec.shape;
  shape[0] = rows.total;
  return shape;
}

void require_stored(const WeightSource& source, const StoredRows& rows,
                    const model::ParamSpec& spec) {
  require(source.has(rows.tensor), "tensor {} is missing", rows.tensor);
  const std::vector<int64_t> expected = stored_shape(rows, spec);
  require(source.shape(rows.tensor) == expected, "{} should be [{}]", source.describe(rows.tensor),
          fmt::join(expected, ", "));
}

// Calls copy(stored row, parameter row, count) for every stretch of rows that are consecutive in
// both, at most `most` at a time.
template <typename Copy>
void for_stretches(const StoredRows& rows, int64_t count, int64_t most, const Copy& copy) {
  for (int64_t f = 0; f < count;) {
    int64_t length = std::min(most, count - f);
    if (rows.run > 0) length = std::min(length, rows.run - f % rows.run);
    copy(rows.stored_row(f), f, length);
    f += length;
  }
}

class SafetensorsSource : public WeightSource {
 public:
  SafetensorsSource(const Family& family, const model::ModelConfig& config,
                    const std::filesystem::path& directory)
      : family_(family), config_(config), files_(directory) {
    for (const std::string& stored : files_.names()) {
      std::string name = family.standard_name(stored);
      if (!name.empty()) {
        add_name(names_, std::move(name), stored, files_.file_of(stored).path().string());
      }
    }
  }

  std::vector<std::string> names() const override { return keys(names_); }
  bool has(std::string_view name) const override { return names_.find(name) != names_.end(); }
  std::vector<int64_t> shape(std::string_view name) const override { return entry(name).shape; }
  std::string describe(std::string_view name) const override {
    return fmt::format("{}: tensor {} {}", file(name).path().string(), entry(name).name,
                       entry(name).shape_string());
  }
  bool is_bf16(std::string_view name) const override { return entry(name).dtype == DType::kBF16; }
  bool same_contents(std::string_view a, std::string_view b) const override {
    return entry(a).dtype_name == entry(b).dtype_name && entry(a).shape == entry(b).shape &&
           same_bytes(entry(a).bytes, entry(b).bytes);
  }
  StoredRows rows_of(const model::ParamSpec& spec) const override {
    return family_.stored_rows(config_, spec);
  }
  void read(const model::ParamSpec& spec, const Tensor& destination) const override {
    const StoredRows rows = rows_of(spec);
    require_stored(*this, rows, spec);
    const int64_t bytes = destination.numel() / spec.shape[0] * dtype_size(destination.dtype());
    auto* out = static_cast<std::byte*>(destination.raw());
    for_stretches(
        rows, spec.shape[0], spec.shape[0], [&](int64_t stored, int64_t f, int64_t count) {
          file(rows.tensor)
              .read_rows(entry(rows.tensor), stored, count, destination.dtype(), out + f * bytes);
        });
  }
  void drop_resident() const override {
    for (const auto& file : files_.files()) file->drop_resident();
  }

 private:
  const SafetensorsFile& file(std::string_view name) const {
    return files_.file_of(names_.find(name)->second);
  }
  const SafetensorsEntry& entry(std::string_view name) const {
    return *files_.find(names_.find(name)->second);
  }

  const Family& family_;
  const model::ModelConfig& config_;
  ShardedSafetensors files_;
  NameMap names_;
};

class GgufSource : public WeightSource {
 public:
  GgufSource(const GgufFile& file, const model::ModelConfig& config)
      : architecture_(find_gguf_architecture(file)), file_(file), config_(config) {}

  std::vector<std::string> names() const override {
    std::vector<std::string> names;
    for (const GgufTensor& tensor : file_.tensors()) {
      if (!architecture_.carries_no_parameter(tensor.name)) names.push_back(tensor.name);
    }
    return names;
  }
  bool has(std::string_view name) const override { return file_.find(name) != nullptr; }
  std::vector<int64_t> shape(std::string_view name) const override { return tensor(name).shape; }
  std::string describe(std::string_view name) const override {
    return fmt::format("{}: tensor {} {}", file_.path_of(tensor(name)).string(), name,
                       tensor(name).shape_string());
  }
  bool is_bf16(std::string_view name) const override {
    return tensor(name).type == static_cast<uint32_t>(GgmlType::kBF16);
  }
  bool same_contents(std::string_view a, std::string_view b) const override {
    return tensor(a).type == tensor(b).type && tensor(a).shape == tensor(b).shape &&
           same_bytes(tensor(a).bytes, tensor(b).bytes);
  }
  StoredRows rows_of(const model::ParamSpec& spec) const override {
    return architecture_.stored_rows(config_, spec);
  }
  void read(const model::ParamSpec& spec, const Tensor& destination) const override;
  WeightScheme scheme(const model::ParamSpec& spec) const override;
  void read_quantized(const model::ParamSpec& spec, const WeightView& destination) const override;
  void drop_resident() const override { file_.drop_resident(); }

 private:
  const GgufTensor& tensor(std::string_view name) const { return *file_.find(name); }

  const GgufArchitecture& architecture_;
  const GgufFile& file_;
  const model::ModelConfig& config_;
};

void GgufSource::read(const model::ParamSpec& spec, const Tensor& destination) const {
  const StoredRows rows = rows_of(spec);
  require_stored(*this, rows, spec);
  const GgufTensor& stored = tensor(rows.tensor);
  // A vector is dequantised whole: its blocks run along it.
  const bool vector = stored.shape.size() == 1;
  const int64_t width = vector ? 1 : stored.shape.back();
  const int64_t most = std::clamp<int64_t>((int64_t{1} << 18) / width, 1, rows.total);
  std::vector<float> values(static_cast<size_t>(vector ? rows.total : most * width));
  if (vector) file_.read_rows(stored, 0, 1, values.data());
  const int64_t bytes = width * dtype_size(destination.dtype());
  auto* out = static_cast<std::byte*>(destination.raw());
  for_stretches(rows, spec.shape[0], most, [&](int64_t first, int64_t f, int64_t count) {
    if (!vector) file_.read_rows(stored, first, count, values.data());
    const auto* from = reinterpret_cast<const std::byte*>(values.data() + (vector ? first : 0));
    if (rows.interleaved == 0) {
      convert_elements(DType::kF32, from, destination.dtype(), out + f * bytes, count * width);
      return;
    }
    for (int64_t i = 0; i < count; ++i) {
      convert_elements(DType::kF32, from + i * width * 4, destination.dtype(),
                       out + rows.row(f + i) * bytes, width);
    }
  });
}

WeightScheme GgufSource::scheme(const model::ParamSpec& spec) const {
  const StoredRows rows = rows_of(spec);
  const GgufTensor* stored = file_.find(rows.tensor);
  const bool fits = stored != nullptr && stored->shape == stored_shape(rows, spec);
  if (!fits || spec.shape.size() != 2) return WeightScheme::kPlain;  // check_weights() complains
  return scheme_of_ggml_type(stored->type);
}

// Rows are permuted and blocks run along them, so that whole blocks move.
void GgufSource::read_quantized(const model::ParamSpec& spec, const WeightView& destination) const {
  const StoredRows rows = rows_of(spec);
  require_stored(*this, rows, spec);
  const GgufTensor& stored = tensor(rows.tensor);
  const WeightScheme scheme = destination.scheme;
  require(scheme == scheme_of_ggml_type(stored.type), "{} is read as {}", describe(rows.tensor),
          quantized::scheme_name(scheme));
  const int64_t blocks = spec.shape[1] / quantized::row_block(scheme);
  const auto row_bytes = static_cast<int64_t>(stored.bytes.size()) / rows.total;
  for (int64_t f = 0; f < spec.shape[0]; ++f) {
    const std::byte* from = stored.bytes.data() + rows.stored_row(f) * row_bytes;
    for (int64_t i = 0; i < blocks; ++i) {
      const quantized::RowBlock block =
          read_quantized_block(scheme, from + i * (row_bytes / blocks));
      if (!is_finite(scheme, block)) {
        fail("{} holds a scale that is NaN or infinity; the file is damaged: use another",
             describe(rows.tensor));
      }
      quantized::store_block(destination, rows.row(f), i, block);
    }
  }
}

// Up to a few of the problems, so that a wrong file does not print a thousand lines.
class Problems {
 public:
  void add(std::string text) {
    if (++count_ <= 8) list_ += "\n  " + std::move(text);
  }
  void throw_if_any(const std::string& where) const {
    if (count_ == 0) return;
    fail(
        "{}: the weights do not fit the model's configuration:{}{}\nCheck that config and weights "
        "belong together and are complete",
        where, list_, count_ > 8 ? fmt::format("\n  and {} more", count_ - 8) : "");
  }

 private:
  size_t count_ = 0;
  std::string list_;
};

void check_unknown(const WeightSource& source, const model::ModelConfig& config,
                   const std::set<std::string>& unknown, Problems& problems) {
  // What the head would be called, had it a tensor of its own.
  model::ModelConfig untied = config;
  untied.tie_word_embeddings = false;
  const std::vector<model::ParamSpec> specs = model::param_specs(untied);
  const std::string embedding = source.rows_of(specs.front()).tensor;
  const std::string head = source.rows_of(specs.back()).tensor;
  for (const std::string& name : unknown) {
    if (name != head || !config.tie_word_embeddings) {
      problems.add(source.describe(name) + " is not a parameter of this model");
    } else if (!source.has(embedding) || !source.same_contents(name, embedding)) {
      // A copy of the tied matrix is harmless.
      problems.add(source.describe(name) +
                   " differs from the embedding, but tie_word_embeddings is true");
    }
  }
}

}  // namespace

void WeightSource::read_quantized(const model::ParamSpec& spec, const WeightView&) const {
  fail("{} is not quantised", describe(rows_of(spec).tensor));
}

std::unique_ptr<WeightSource> make_safetensors_source(const Family& family,
                                                      const model::ModelConfig& config,
                                                      const std::filesystem::path& directory) {
  return std::make_unique<SafetensorsSource>(family, config, directory);
}

std::unique_ptr<WeightSource> make_gguf_source(const GgufFile& file,
                                               const model::ModelConfig& config) {
  return std::make_unique<GgufSource>(file, config);
}

void check_weights(const WeightSource& source, const model::ModelConfig& config,
                   const std::string& where) {
  const std::vector<std::string> stored = source.names();
  std::set<std::string> unknown(stored.begin(), stored.end()), checked;
  Problems problems;
  for (const model::ParamSpec& spec : model::param_specs(config)) {
    const StoredRows rows = source.rows_of(spec);
    if (!checked.insert(rows.tensor).second) continue;  // a fused tensor, seen before
    unknown.erase(rows.tensor);
    try {
      require_stored(source, rows, spec);
    } catch (const Error& problem) {
      problems.add(problem.what());
    }
  }
  check_unknown(source, config, unknown, problems);
  problems.throw_if_any(where);
}

void read_finite(const WeightSource& source, const model::ParamSpec& spec,
                 const Tensor& destination) {
  source.read(spec, destination);
  if (has_nonfinite(destination)) {
    fail("{} holds NaN or infinity (as {}); the checkpoint is damaged or diverged: use another",
         source.describe(source.rows_of(spec).tensor), dtype_name(destination.dtype()));
  }
  // Mapped pages count as this process's memory; the next tensors need it more.
  constexpr int64_t kLarge = int64_t{8} << 20;
  if (destination.bytes() >= kLarge) source.drop_resident();
}

}  // namespace longgen::formats
