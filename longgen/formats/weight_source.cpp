#include "longgen/formats/weight_source.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "longgen/base/error.h"
#include "longgen/formats/convert_elements.h"

namespace longgen::formats {
namespace {

bool same_bytes(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size()) == 0);
}

// The files' names by canonical name.
using NameMap = std::map<std::string, std::string, std::less<>>;

void add_name(NameMap& map, std::string canonical, const std::string& stored,
              const std::string& file) {
  const auto [it, fresh] = map.try_emplace(std::move(canonical), stored);
  if (!fresh) fail("{}: tensors {} and {} are the same parameter", file, it->second, stored);
}

std::vector<std::string> keys(const NameMap& map) {
  std::vector<std::string> names;
  for (const auto& [canonical, stored] : map) names.push_back(canonical);
  return names;
}

class SafetensorsSource : public WeightSource {
 public:
  SafetensorsSource(const Family& family, const std::filesystem::path& directory)
      : files_(directory) {
    for (const std::string& stored : files_.names()) {
      std::string canonical = family.canonical_name(stored).value_or(stored);
      if (!canonical.empty()) {
        add_name(names_, std::move(canonical), stored, files_.file_of(stored).path().string());
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
  void read(std::string_view name, const Tensor& destination) const override {
    file(name).read(entry(name), destination);
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

  ShardedSafetensors files_;
  NameMap names_;
};

class GgufSource : public WeightSource {
 public:
  GgufSource(const Family& family, const GgufFile& file, const model::ModelConfig& config)
      : family_(family), file_(file), config_(config) {
    for (const GgufTensor& tensor : file.tensors()) {
      std::string canonical = family.canonical_gguf_name(tensor.name).value_or(tensor.name);
      add_name(names_, std::move(canonical), tensor.name, file.path().string());
    }
  }

  std::vector<std::string> names() const override { return keys(names_); }
  bool has(std::string_view name) const override { return names_.find(name) != names_.end(); }
  std::vector<int64_t> shape(std::string_view name) const override { return tensor(name).shape; }
  std::string describe(std::string_view name) const override {
    return fmt::format("{}: tensor {} {}", file_.path().string(), tensor(name).name,
                       tensor(name).shape_string());
  }
  bool is_bf16(std::string_view name) const override {
    return tensor(name).type == static_cast<uint32_t>(GgmlType::kBF16);
  }
  bool same_contents(std::string_view a, std::string_view b) const override {
    return tensor(a).type == tensor(b).type && tensor(a).shape == tensor(b).shape &&
           same_bytes(tensor(a).bytes, tensor(b).bytes);
  }
  void read(std::string_view name, const Tensor& destination) const override;
  void drop_resident() const override { file_.drop_resident(); }

 private:
  const GgufTensor& tensor(std::string_view name) const {
    return *file_.find(names_.find(name)->second);
  }

  const Family& family_;
  const GgufFile& file_;
  const model::ModelConfig& config_;
  NameMap names_;
};

// GGUF keeps the rows of a Llama head as (pair, half), Hugging Face as (half, pair): row 2 p + h of
// a head becomes row h d / 2 + p, for matrices [heads d, in] and biases [heads d] alike.
int64_t unpermuted_row(int64_t row, int64_t head_dim) {
  const int64_t in_head = row % head_dim;
  return row - in_head + (in_head % 2) * (head_dim / 2) + in_head / 2;
}

void GgufSource::read(std::string_view name, const Tensor& destination) const {
  const GgufTensor& stored = tensor(name);
  int64_t heads = 0;
  const bool permuted = family_.gguf_permuted(config_, name, heads);
  const int64_t rows_of_heads = heads * config_.head_dim;
  if (permuted && (stored.shape[0] != rows_of_heads || config_.head_dim % 2 != 0)) {
    fail("{}: its rows are not {} heads of {} channels", describe(name), heads, config_.head_dim);
  }
  const bool vector = stored.shape.size() == 1;
  const int64_t columns = stored.shape.back();  // what is dequantised together
  const int64_t rows = destination.numel() / columns;
  const int64_t width = vector ? 1 : columns;  // what is moved together
  const int64_t element = dtype_size(destination.dtype());
  const int64_t piece = std::clamp<int64_t>((int64_t{1} << 18) / columns, 1, rows);
  std::vector<float> values(static_cast<size_t>(piece * columns));
  auto* out = static_cast<std::byte*>(destination.raw());
  for (int64_t begin = 0; begin < rows; begin += piece) {
    const int64_t count = std::min(piece, rows - begin);
    file_.read_rows(stored, begin, count, values.data());
    const auto* source = reinterpret_cast<const std::byte*>(values.data());
    const int64_t first = begin * columns / width, units = count * columns / width;
    if (!permuted) {
      convert_elements(DType::kF32, source, destination.dtype(), out + first * width * element,
                       units * width);
      continue;
    }
    for (int64_t i = 0; i < units; ++i) {
      const int64_t row = unpermuted_row(first + i, config_.head_dim);
      convert_elements(DType::kF32, source + i * width * 4, destination.dtype(),
                       out + row * width * element, width);
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

constexpr std::string_view kHead = "lm_head.weight", kEmbedding = "model.embed_tokens.weight";

void check_unknown(const WeightSource& source, const model::ModelConfig& config,
                   const std::set<std::string>& unknown, Problems& problems) {
  for (const std::string& name : unknown) {
    if (name != kHead || !config.tie_word_embeddings) {
      problems.add(source.describe(name) + " is not a parameter of this model");
    } else if (!source.has(kEmbedding) || !source.same_contents(name, kEmbedding)) {
      // A copy of the tied matrix is harmless.
      problems.add(source.describe(name) +
                   " differs from the embedding, but tie_word_embeddings is true");
    }
  }
}

}  // namespace

std::unique_ptr<WeightSource> make_safetensors_source(const Family& family,
                                                      const std::filesystem::path& directory) {
  return std::make_unique<SafetensorsSource>(family, directory);
}

std::unique_ptr<WeightSource> make_gguf_source(const Family& family, const GgufFile& file,
                                               const model::ModelConfig& config) {
  return std::make_unique<GgufSource>(family, file, config);
}

void check_weights(const WeightSource& source, const model::ModelConfig& config,
                   const std::string& where) {
  const std::vector<std::string> stored = source.names();
  std::set<std::string> unknown(stored.begin(), stored.end());
  Problems problems;
  for (const model::ParamSpec& spec : model::param_specs(config)) {
    if (unknown.erase(spec.name) == 0) {
      problems.add(fmt::format("tensor {} is missing", spec.name));
    } else if (source.shape(spec.name) != spec.shape) {
      problems.add(fmt::format("{} should be [{}]", source.describe(spec.name),
                               fmt::join(spec.shape, ", ")));
    }
  }
  check_unknown(source, config, unknown, problems);
  problems.throw_if_any(where);
}

void read_finite(const WeightSource& source, std::string_view name, const Tensor& destination) {
  source.read(name, destination);
  if (has_nonfinite(destination)) {
    fail("{} holds NaN or infinity (as {}); the checkpoint is damaged or diverged: use another",
         source.describe(name), dtype_name(destination.dtype()));
  }
  // Mapped pages count as this process's memory; the next tensors need it more.
  constexpr int64_t kLarge = int64_t{8} << 20;
  if (destination.bytes() >= kLarge) source.drop_resident();
}

}  // namespace longgen::formats
