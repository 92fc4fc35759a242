#include "longgen/formats/gguf.h"

#include <algorithm>
#include <cstring>
#include <fstream>

#include "longgen/base/checked.h"
#include "longgen/base/error.h"

namespace longgen::formats {
namespace {

constexpr std::string_view kMagic = "GGUF";
constexpr uint64_t kMaxTensors = 1'000'000, kMaxKeys = 1'000'000, kMaxKeyBytes = 65'535;
constexpr uint64_t kMaxArray = uint64_t{1} << 26;
constexpr uint64_t kMaxAlignment = uint64_t{1} << 20;
constexpr uint32_t kMaxRank = 4;

enum class ValueType : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64
};

// The least bytes that a value takes, so that a count can be held against what remains.
uint64_t least_bytes(ValueType type, std::string_view field, const ByteReader& reader) {
  switch (type) {
    case ValueType::kU8:
    case ValueType::kI8:
    case ValueType::kBool:
      return 1;
    case ValueType::kU16:
    case ValueType::kI16:
      return 2;
    case ValueType::kU32:
    case ValueType::kI32:
    case ValueType::kF32:
      return 4;
    case ValueType::kU64:
    case ValueType::kI64:
    case ValueType::kF64:
    case ValueType::kString:
      return 8;
    case ValueType::kArray:
      break;
  }
  fail("{}: {} at offset {} has elements of value type {}, which cannot be read",
       reader.file_name(), field, reader.offset(), static_cast<uint32_t>(type));
}

std::string read_string(ByteReader& reader, std::string_view field) {
  const auto length = reader.read<uint64_t>(field);
  const auto bytes = reader.take(length, field);
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

int64_t read_integer(ByteReader& reader, ValueType type, std::string_view field) {
  switch (type) {
    case ValueType::kU8:
      return reader.read<uint8_t>(field);
    case ValueType::kI8:
      return reader.read<int8_t>(field);
    case ValueType::kU16:
      return reader.read<uint16_t>(field);
    case ValueType::kI16:
      return reader.read<int16_t>(field);
    case ValueType::kU32:
      return reader.read<uint32_t>(field);
    case ValueType::kI32:
      return reader.read<int32_t>(field);
    case ValueType::kI64:
      return reader.read<int64_t>(field);
    case ValueType::kBool:
      return reader.read<uint8_t>(field) != 0;
    default:
      break;
  }
  const auto value = reader.read<uint64_t>(field);
  if (!std::in_range<int64_t>(value)) {
    fail("{}: {} before offset {} is {}, beyond 2^63", reader.file_name(), field, reader.offset(),
         value);
  }
  return static_cast<int64_t>(value);
}

double read_number(ByteReader& reader, ValueType type, std::string_view field) {
  return type == ValueType::kF32 ? reader.read<float>(field) : reader.read<double>(field);
}

bool is_float(ValueType type) { return type == ValueType::kF32 || type == ValueType::kF64; }

ValueType read_value_type(ByteReader& reader, std::string_view field) {
  const auto number = reader.read<uint32_t>(field);
  if (number > static_cast<uint32_t>(ValueType::kF64)) {
    fail("{}: {} at offset {} has the unknown value type {}; the file is damaged",
         reader.file_name(), field, reader.offset() - 4, number);
  }
  return static_cast<ValueType>(number);
}

GgufValue read_array(ByteReader& reader, std::string_view field) {
  const ValueType type = read_value_type(reader, field);
  const auto count = reader.read<uint64_t>(field);
  const uint64_t each = least_bytes(type, field, reader);
  if (count > kMaxArray || count > reader.remaining() / each) {
    fail(
        "{}: {} at offset {} is an array of {} elements, more than the remaining {} bytes (or {} "
        "elements) allow",
        reader.file_name(), field, reader.offset() - 8, count, reader.remaining(), kMaxArray);
  }
  const size_t n = static_cast<size_t>(count);
  if (type == ValueType::kString) {
    std::vector<std::string> values(n);
    for (auto& value : values) value = read_string(reader, field);
    return values;
  }
  if (is_float(type)) {
    std::vector<double> values(n);
    for (auto& value : values) value = read_number(reader, type, field);
    return values;
  }
  std::vector<int64_t> values(n);
  for (auto& value : values) value = read_integer(reader, type, field);
  return values;
}

GgufValue read_value(ByteReader& reader, std::string_view field) {
  const ValueType type = read_value_type(reader, field);
  if (type == ValueType::kArray) return read_array(reader, field);
  if (type == ValueType::kString) return read_string(reader, field);
  if (type == ValueType::kBool) return reader.read<uint8_t>(field) != 0;
  if (is_float(type)) return read_number(reader, type, field);
  return read_integer(reader, type, field);
}

}  // namespace

std::string GgufTensor::shape_string() const {
  return fmt::format("[{}] {}", fmt::join(shape, ", "), ggml_type_name(type));
}

bool GgufFile::recognise(const std::filesystem::path& path) {
  // Opening a pipe would wait for its writer.
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) return false;
  char magic[4] = {};
  std::ifstream(path, std::ios::binary).read(magic, sizeof(magic));
  return std::string_view(magic, sizeof(magic)) == kMagic;
}

GgufFile::GgufFile(const std::filesystem::path& path) : GgufFile(path, OnePart{}) { open_parts(); }

GgufFile::GgufFile(const std::filesystem::path& path, OnePart) : file_(path) {
  ByteReader reader(file_.bytes(), path.string());
  read_header(reader);
  place_tensors(reader);
}

GgufFile::~GgufFile() = default;

void GgufFile::read_header(ByteReader& reader) {
  const std::string& file = reader.file_name();
  const auto magic = reader.take(kMagic.size(), "magic");
  if (std::memcmp(magic.data(), kMagic.data(), kMagic.size()) != 0) {
    fail("{}: magic is not \"GGUF\"; this is no GGUF file", file);
  }
  version_ = reader.read<uint32_t>("version");
  if (version_ != 2 && version_ != 3) {
    const bool swapped = version_ == 0x02000000u || version_ == 0x03000000u;
    fail("{}: version is {}{}; versions 2 and 3 are read: convert the file anew", file, version_,
         swapped ? ", a big-endian file" : "");
  }
  const auto tensor_count = reader.read<uint64_t>("tensor_count");
  const auto key_count = reader.read<uint64_t>("metadata_kv_count");
  // A tensor takes at least 24 bytes of description, a key 13.
  if (tensor_count > kMaxTensors || tensor_count > reader.remaining() / 24) {
    fail("{}: tensor_count is {}, more than the file's {} bytes (or {}) allow", file, tensor_count,
         file_.size(), kMaxTensors);
  }
  if (key_count > kMaxKeys || key_count > reader.remaining() / 13) {
    fail("{}: metadata_kv_count is {}, more than the file's {} bytes (or {}) allow", file,
         key_count, file_.size(), kMaxKeys);
  }
  read_metadata(reader, key_count);
  read_tensor_infos(reader, tensor_count);
}

void GgufFile::read_metadata(ByteReader& reader, uint64_t count) {
  for (uint64_t i = 0; i < count; ++i) {
    const size_t offset = reader.offset();
    std::string key = read_string(reader, fmt::format("metadata key {}", i));
    if (key.empty() || key.size() > kMaxKeyBytes) {
      fail("{}: metadata key {} at offset {} has {} bytes; 1 to {} are allowed", reader.file_name(),
           i, offset, key.size(), kMaxKeyBytes);
    }
    GgufValue value = read_value(reader, key);
    if (!metadata_.try_emplace(key, std::move(value)).second) {
      fail("{}: metadata key {} appears twice (again at offset {})", reader.file_name(), key,
           offset);
    }
  }
}

void GgufFile::read_tensor_infos(ByteReader& reader, uint64_t count) {
  for (uint64_t i = 0; i < count; ++i) {
    GgufTensor tensor;
    tensor.name = read_string(reader, fmt::format("name of tensor {}", i));
    if (tensor.name.empty() || tensor.name.size() > kMaxKeyBytes) {
      fail("{}: the name of tensor {} has {} bytes; 1 to {} are allowed", reader.file_name(), i,
           tensor.name.size(), kMaxKeyBytes);
    }
    const std::string field = "tensor " + tensor.name;
    const auto rank = reader.read<uint32_t>(field);
    if (rank < 1 || rank > kMaxRank) {
      fail("{}: {}: {} dimensions at offset {}; 1 to {} are allowed", reader.file_name(), field,
           rank, reader.offset() - 4, kMaxRank);
    }
    tensor.shape.resize(rank);
    for (uint32_t axis = 0; axis < rank; ++axis) {
      const auto dim = reader.read<uint64_t>(field);
      if (dim < 1 || !std::in_range<int64_t>(dim)) {
        fail("{}: {}: dimension {} is {} at offset {}", reader.file_name(), field, axis, dim,
             reader.offset() - 8);
      }
      tensor.shape[rank - 1 - axis] = static_cast<int64_t>(dim);
    }
    tensor.type = reader.read<uint32_t>(field);
    tensor.offset = reader.read<uint64_t>(field);
    if (!index_.try_emplace(tensor.name, tensors_.size()).second) {
      fail("{}: {} appears twice", reader.file_name(), field);
    }
    tensors_.push_back(std::move(tensor));
  }
}

namespace {

int64_t tensor_bytes(const GgufTensor& tensor, const GgmlTypeInfo& type, const std::string& where) {
  if (tensor.shape.back() % type.block_elements != 0) {
    fail("{}: rows of {} elements are no whole number of {} blocks of {}", where,
         tensor.shape.back(), type.name, type.block_elements);
  }
  try {
    int64_t elements = 1;
    for (int64_t dim : tensor.shape) elements = checked_mul(elements, dim);
    return checked_mul(elements / type.block_elements, type.block_bytes);
  } catch (const Error& error) {
    fail("{}: shape {}: {}; the file is damaged", where, tensor.shape_string(), error.what());
  }
}

}  // namespace

// The data section starts at the next multiple of the alignment; all tensors must lie in it, apart.
void GgufFile::place_tensors(const ByteReader& reader) {
  const std::string& file = reader.file_name();
  const auto alignment = static_cast<uint64_t>(
      integer_or("general.alignment", 32, 1, static_cast<int64_t>(kMaxAlignment)));
  if (alignment % 8 != 0) fail_at("general.alignment", "must be a multiple of 8");
  const uint64_t start = round_up<uint64_t>(reader.offset(), alignment);
  const uint64_t size = file_.size() >= start ? file_.size() - start : 0;
  std::vector<const GgufTensor*> placed;
  for (GgufTensor& tensor : tensors_) {
    const std::string where = fmt::format("{}: tensor {}", file, tensor.name);
    if (tensor.offset % alignment != 0) {
      fail("{}: offset {} is no multiple of the alignment {}", where, tensor.offset, alignment);
    }
    if (tensor.offset > size) {
      fail("{}: offset {} lies beyond the {} bytes of data; the file is truncated", where,
           tensor.offset, size);
    }
    const GgmlTypeInfo* type = find_ggml_type(tensor.type);
    if (type == nullptr) continue;
    const auto bytes = static_cast<uint64_t>(tensor_bytes(tensor, *type, where));
    if (bytes > size - tensor.offset) {
      fail("{}: {} takes {} bytes at offset {}, but the data has only {}; the file is truncated",
           where, tensor.shape_string(), bytes, tensor.offset, size);
    }
    tensor.bytes = file_.bytes().subspan(static_cast<size_t>(start + tensor.offset),
                                         static_cast<size_t>(bytes));
    placed.push_back(&tensor);
  }
  std::sort(placed.begin(), placed.end(),
            [](const auto* a, const auto* b) { return a->offset < b->offset; });
  for (size_t i = 1; i < placed.size(); ++i) {
    if (placed[i]->offset - placed[i - 1]->offset < placed[i - 1]->bytes.size()) {
      fail("{}: tensor {}: offset {} lies inside tensor {}", file, placed[i]->name,
           placed[i]->offset, placed[i - 1]->name);
    }
  }
}

const GgufTensor* GgufFile::find(std::string_view name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &tensors_[it->second];
}

void GgufFile::read_rows(const GgufTensor& tensor, int64_t begin, int64_t count, float* out) const {
  const GgmlTypeInfo* type = find_ggml_type(tensor.type);
  if (type == nullptr) {
    fail("{}: tensor {}: type {} cannot be read; {} can: get the model in one of these",
         path_of(tensor).string(), tensor.name, ggml_type_name(tensor.type), readable_ggml_types());
  }
  const int64_t columns = tensor.shape.back();
  const int64_t row_bytes = columns / type->block_elements * type->block_bytes;
  const int64_t rows = static_cast<int64_t>(tensor.bytes.size()) / row_bytes;
  require(begin >= 0 && count >= 0 && begin <= rows && count <= rows - begin,
          "{}: tensor {}: rows {} + {} of {}", path_of(tensor).string(), tensor.name, begin, count,
          rows);
  dequantize(type->type, tensor.bytes.data() + begin * row_bytes, out, count * columns);
}

}  // namespace longgen::formats
