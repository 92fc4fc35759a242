

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "longgen/backend/quantized.h"
#include "longgen/base/error.h"
#include "longgen/formats/gguf.h"
#include "longgen/formats/hf_config.h"
#include "longgen/formats/model_file.h"
#include "longgen/formats/safetensors.h"
#include "longgen/model/kv_size.h"
#include "longgen/tensor/arena.h"
#include "longgen/tokenizer/load.h"
#include "tests/fuzz/memory_file.h"
#include "tests/fuzz/target.h"

namespace longgen::fuzz {
namespace {

using namespace formats;

// A small file cannot hold more than this; what claims to is an error before it is allocated.
constexpr int64_t kMaxElements = int64_t{1} << 16;

int64_t numel(const std::vector<int64_t>& shape) {
  int64_t product = 1;
  for (const int64_t dim : shape) {
    if (__builtin_mul_overflow(product, dim, &product)) return kMaxElements + 1;
  }
  return product;
}

// Room for the elements and not one more, so that writing past them is seen.
std::unique_ptr<float[]> room_for(int64_t elements) {
  return std::make_unique_for_overwrite<float[]>(static_cast<size_t>(elements));
}

void read_every_tensor(const SafetensorsFile& file) {
  for (const SafetensorsEntry& entry : file.tensors()) {
    check(file.find(entry.name) == &entry, "a listed tensor is found by its name");
    check(!entry.shape_string().empty(), "a tensor describes itself");
    const bool small = entry.shape.size() >= 1 && entry.shape.size() <= 4;
    const int64_t count = numel(entry.shape);
    if (!small || count < 1 || count > kMaxElements) continue;
    const auto out = room_for(count);
    expect_clear_error(file.path().string(),
                       [&] { file.read(entry, Tensor(out.get(), DType::kF32, entry.shape)); });
  }
}

void read_rows_of(const GgufFile& file, const GgufTensor& tensor) {
  const int64_t columns = tensor.shape.back(), rows = numel(tensor.shape) / columns;
  check(!tensor.shape_string().empty(), "a tensor describes itself");
  if (columns > kMaxElements || rows < 1) return;
  const auto out = room_for(columns);
  for (const int64_t row : {int64_t{0}, rows - 1}) file.read_rows(tensor, row, 1, out.get());
}

// Every parameter, as `train` and `convert` load them.
void read_parameters(const ModelFile& file) {
  file.check_weights();
  for (const model::ParamSpec& spec : model::param_specs(file.config())) {
    if (spec.numel() > kMaxElements) continue;
    const auto out = room_for(spec.numel());
    file.read_weight(spec.name, Tensor(out.get(), DType::kF32, spec.shape));
  }
}

// Host memory whose end AddressSanitizer watches.
class HeapMemory : public HostMemory {
 public:
  void* allocate(int64_t bytes) override {
    if (bytes == 0) return nullptr;
    const auto size = static_cast<size_t>(bytes);
    return std::memset(::operator new(size, kAlignment), 0, size);
  }
  void deallocate(void* data, int64_t) override { ::operator delete(data, kAlignment); }

 private:
  static constexpr std::align_val_t kAlignment{4096};
};

// A matrix kept as stored has the values that dequantising gives, which rounds to f32.
void check_kept(const ModelFile& file, const model::ParamSpec& spec, const WeightView& kept) {
  const auto plain = room_for(spec.numel());
  file.read_weight(spec.name, Tensor(plain.get(), DType::kF32, spec.shape));
  const int64_t columns = spec.shape[1];
  std::vector<double> row(static_cast<size_t>(columns));
  for (int64_t r = 0; r < spec.shape[0]; ++r) {
    quantized::dequantize_row(kept, r, row.data());
    double greatest = 0, error = 0;
    for (int64_t i = 0; i < columns; ++i) {
      const double value = row[static_cast<size_t>(i)];
      greatest = std::max(greatest, std::abs(value));
      error = std::max(error, std::abs(value - plain[static_cast<size_t>(r * columns + i)]));
    }
    check(error <= 1e-6 * greatest, "a matrix kept quantised has the values of dequantising");
  }
}

// As `generate` loads them: matrices stay quantised where products take them so.
void read_as_served(const ModelFile& file) {
  const std::vector<WeightScheme> schemes = file.weight_schemes();
  HeapMemory memory;
  const model::ParameterSet kept("weights", file.config(), DType::kBF16, memory, schemes);
  file.read_weights(kept);
  for (size_t i = 0; i < schemes.size(); ++i) {
    if (schemes[i] != WeightScheme::kPlain) check_kept(file, kept.specs()[i], kept.view(i));
  }
}

// What `inspect` counts, then the weights in both ways. Errors name `name`.
void use_model(const ModelFile& file, const std::string& name) {
  (void)file.lossless_dtype();
  const auto size = model::kv_size(file.config(), 131072, DType::kBF16);
  check(size.bytes >= 0 && size.bytes <= size.all_full_bytes,
        "a hybrid's cache is at most the full one");
  if (file.config().num_layers <= 64) {
    expect_clear_error(name, [&] {
      NoMemory nothing;
      const model::ParameterSet weights("weights", file.config(), DType::kBF16, nothing,
                                        file.weight_schemes());
      check(!weights.description().empty() && weights.bytes() > 0, "weights describe themselves");
    });
  }
  expect_clear_error(name, [&] { read_parameters(file); });
  if (!file.has_weights() || model::parameter_count(file.config()) > kMaxElements) return;
  expect_clear_error(name, [&] { read_as_served(file); });
}

void use_tokenizer(const tokenizer::Tokenizer& tokenizer) {
  const auto ids = tokenizer.encode("Hello <s>world\xF0\x9F\x98\x80 42\xFF");
  for (const int32_t id : ids) {
    check(id >= 0 && id < tokenizer.vocab_size(), "ids lie in the vocabulary");
  }
  (void)tokenizer.decode(ids);
}

}  // namespace

void run_safetensors(std::string_view bytes) {
  const MemoryFile file(bytes);
  expect_clear_error(file.path().string(),
                     [&] { read_every_tensor(SafetensorsFile(file.path())); });
}

// The index of a sharded model, beside two shards that are whole.
void run_safetensors_index(std::string_view bytes) {
  static const MemoryFolder folder;
  static const bool written = [] {
    const auto shard = [](const char* name, const std::string& tensor) {
      SafetensorsWriter writer(folder.path() / name, {{tensor, DType::kF32, {1}}});
      float value = 1;
      writer.write(Tensor(&value, DType::kF32, {1}));
      writer.commit();
    };
    shard("a.safetensors", "x");
    shard("b.safetensors", "y");
    return true;
  }();
  (void)written;
  folder.write("model.safetensors.index.json", bytes);
  expect_clear_error(folder.path().string(), [&] {
    const ShardedSafetensors sharded(folder.path());
    for (const std::string& name : sharded.names()) {
      check(sharded.find(name) != nullptr, "a listed tensor is found by its name");
      read_every_tensor(sharded.file_of(name));
    }
  });
}

void run_gguf(std::string_view bytes) {
  const MemoryFile memory(bytes);
  const std::string name = memory.path().string();
  expect_clear_error(name, [&] {
    const GgufFile file(memory.path());
    for (const GgufTensor& tensor : file.tensors()) {
      check(file.find(tensor.name) == &tensor, "a listed tensor is found by its name");
      expect_clear_error(name, [&] { read_rows_of(file, tensor); });
    }
    expect_clear_error(name, [&] { use_tokenizer(*tokenizer::load_gguf_tokenizer(file)); });
    expect_clear_error(name, [&] { use_model(ModelFile::open(memory.path()), name); });
  });
}

// The parts of a split model, called as llama-gguf-split calls them; one alone is a whole model.
void run_gguf_parts(std::string_view bytes) {
  constexpr size_t kMaxParts = 9;
  static const MemoryFolder folders[kMaxParts];  // one for each count: none finds another's parts
  std::vector<std::string_view> parts;
  do {
    parts.push_back(next_part(bytes));
  } while (!bytes.empty() && parts.size() < kMaxParts);
  const MemoryFolder& folder = folders[parts.size() - 1];
  const auto part_name = [&](size_t i) {
    return fmt::format("m-{:05}-of-{:05}.gguf", i + 1, parts.size());
  };
  for (size_t i = 0; i < parts.size(); ++i) folder.write(part_name(i), parts[i]);
  const std::string name = folder.path().string();
  expect_clear_error(name, [&] { use_model(ModelFile::open(folder.path() / part_name(0)), name); });
}

// A Hugging Face directory: config.json, generation_config.json, tokenizer_config.json, index, and
// two files of weights; what is empty is not there. Without an index there is one file of weights.
void run_model_directory(std::string_view bytes) {
  static const MemoryFolder folder;
  const auto put = [](const char* name, std::string_view part) {
    if (part.empty()) {
      folder.remove(name);
    } else {
      folder.write(name, part);
    }
  };
  for (const char* name : {"config.json", "generation_config.json", "tokenizer_config.json"}) {
    put(name, next_part(bytes));
  }
  const std::string_view index = next_part(bytes);
  const std::string_view first = next_part(bytes), second = next_part(bytes);
  put("model.safetensors.index.json", index);
  put("model.safetensors", index.empty() ? first : "");
  put("a.safetensors", index.empty() ? "" : first);
  put("b.safetensors", index.empty() ? "" : second);
  const std::string name = folder.path().string();
  expect_clear_error(name, [&] { use_model(ModelFile::open(folder.path()), name); });
}

void run_hf_config(std::string_view bytes) {
  constexpr const char* kFile = "config.json";
  expect_clear_error(kFile, [&] {
    const HfConfig config = read_hf_config(parse_json(bytes, kFile), kFile);
    const auto size = model::kv_size(config.model, 131072, DType::kBF16);
    check(size.bytes >= 0 && size.bytes <= size.all_full_bytes,
          "a hybrid's cache is at most the full one");
    if (config.model.num_layers <= 64) (void)model::parameter_count(config.model);
    // What was read can be written, and then reads the same.
    std::string text;
    try {
      text = write_hf_config(config.model, DType::kBF16, config.extras);
    } catch (const Error&) {
      return;  // a switch that the family's files cannot express
    }
    const HfConfig again = read_hf_config(parse_json(text, kFile), kFile);
    check(again.model.patterns == config.model.patterns, "patterns survive writing");
    check(again.model.rope == config.model.rope, "RoPE settings survive writing");
    check(again.extras == config.extras, "other keys survive writing");
  });
}

}  // namespace longgen::fuzz
