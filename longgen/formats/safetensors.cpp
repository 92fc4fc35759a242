#include "longgen/formats/safetensors.h"

#include <algorithm>
#include <array>
#include <limits>

#include "longgen/base/byte_reader.h"
#include "longgen/base/checked.h"
#include "longgen/formats/convert_elements.h"
#include "longgen/formats/json.h"

namespace longgen::formats {
namespace {

struct StoredType {
  std::string_view name;
  int64_t bits;
  std::optional<DType> dtype;
};

// The format's types; those without a DType are listed but cannot be read.
constexpr std::array<StoredType, 20> kStoredTypes = {{
    {"F64", 64, DType::kF64},
    {"F32", 32, DType::kF32},
    {"F16", 16, DType::kF16},
    {"BF16", 16, DType::kBF16},
    {"I64", 64, DType::kI64},
    {"I32", 32, DType::kI32},
    {"U8", 8, DType::kU8},
    {"BOOL", 8, {}},
    {"I8", 8, {}},
    {"I16", 16, {}},
    {"U16", 16, {}},
    {"U32", 32, {}},
    {"U64", 64, {}},
    {"C64", 64, {}},
    {"F8_E4M3", 8, {}},
    {"F8_E5M2", 8, {}},
    {"F8_E8M0", 8, {}},
    {"F6_E2M3", 6, {}},
    {"F6_E3M2", 6, {}},
    {"F4", 4, {}},
}};

const StoredType* find_stored_type(std::string_view name) {
  const auto it = std::find_if(kStoredTypes.begin(), kStoredTypes.end(),
                               [&](const StoredType& type) { return type.name == name; });
  return it == kStoredTypes.end() ? nullptr : &*it;
}

std::string_view stored_type_name(DType dtype) {
  return std::find_if(kStoredTypes.begin(), kStoredTypes.end(),
                      [&](const StoredType& type) { return type.dtype == dtype; })
      ->name;
}

// The bytes of a shape of `bits` wide elements. Throws Error naming `where` on overflow.
int64_t shape_bytes(const std::vector<int64_t>& shape, int64_t bits, const std::string& where) {
  try {
    int64_t total = bits;
    // A zero anywhere makes the product zero, but the other dimensions must not overflow either.
    for (int64_t dim : shape) total = checked_mul(total, std::max<int64_t>(dim, 1));
    const bool empty = std::find(shape.begin(), shape.end(), 0) != shape.end();
    return empty ? 0 : ceil_div<int64_t>(total, 8);
  } catch (const Error& error) {
    fail("{}: shape: {}; the file is damaged", where, error.what());
  }
}

SafetensorsEntry parse_entry(const std::string& name, const JsonObject& fields,
                             std::span<const std::byte> data) {
  for (const auto& [key, value] : fields.json().items()) {
    if (key != "dtype" && key != "shape" && key != "data_offsets") {
      fields.fail_at(key, "is not a field of a tensor (dtype, shape, data_offsets)");
    }
  }
  SafetensorsEntry entry;
  entry.name = name;
  entry.dtype_name = fields.string("dtype");
  const StoredType* type = find_stored_type(entry.dtype_name);
  if (type != nullptr) entry.dtype = type->dtype;

  if (!fields.at("shape").is_array()) fields.fail_at("shape", "must be an array of integers");
  entry.shape = fields.integers("shape", 0, std::numeric_limits<int64_t>::max());
  if (entry.shape.size() > kMaxStoredRank) {
    fields.fail_at("shape", fmt::format("has {} dimensions; at most {} are read",
                                        entry.shape.size(), kMaxStoredRank));
  }
  const auto offsets = fields.integers("data_offsets", 0, std::numeric_limits<int64_t>::max());
  if (offsets.size() != 2 || offsets[0] > offsets[1]) {
    fields.fail_at("data_offsets", "must be [begin, end] with begin <= end");
  }
  if (offsets[1] > static_cast<int64_t>(data.size())) {
    fields.fail_at("data_offsets",
                   fmt::format("reach byte {} of the data, but the file has only {}: it is "
                               "truncated or damaged",
                               offsets[1], data.size()));
  }
  entry.bytes =
      data.subspan(static_cast<size_t>(offsets[0]), static_cast<size_t>(offsets[1] - offsets[0]));
  if (type != nullptr) {
    const int64_t expected = shape_bytes(entry.shape, type->bits, fields.where());
    if (expected != offsets[1] - offsets[0]) {
      fields.fail_at("data_offsets",
                     fmt::format("span {} bytes, but {} takes {}", offsets[1] - offsets[0],
                                 entry.shape_string(), expected));
    }
  }
  return entry;
}

// Sorted by offset, the tensors must cover the data exactly.
void check_layout(const std::vector<SafetensorsEntry>& tensors, std::span<const std::byte> data,
                  const std::string& file) {
  size_t end = 0;
  for (const SafetensorsEntry& entry : tensors) {
    const size_t begin = static_cast<size_t>(entry.bytes.data() - data.data());
    if (begin < end) {
      fail(
          "{}: tensor {}: data_offsets: begins at {} inside the tensor before it, which ends at {}",
          file, entry.name, begin, end);
    }
    if (begin > end) {
      fail("{}: tensor {}: data_offsets: begins at {}, but the data before it ends at {}: a gap",
           file, entry.name, begin, end);
    }
    end = begin + entry.bytes.size();
  }
  if (end != data.size()) {
    fail("{}: the tensors end at byte {} of the data, but the file holds {}: trailing bytes", file,
         end, data.size());
  }
}

}  // namespace

std::string SafetensorsEntry::shape_string() const {
  return fmt::format("[{}] {}", fmt::join(shape, ", "), dtype_name);
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : file_(path) {
  const std::string file = path.string();
  ByteReader reader(file_.bytes(), file);
  const uint64_t header_bytes = reader.read<uint64_t>("header length");
  if (header_bytes > kMaxSafetensorsHeader) {
    fail("{}: header length {} is beyond {}: not a safetensors file, or damaged", file,
         header_bytes, kMaxSafetensorsHeader);
  }
  const auto header = reader.take(header_bytes, "header");
  const auto data = file_.bytes().subspan(reader.offset());
  const Json json =
      parse_json({reinterpret_cast<const char*>(header.data()), header.size()}, file + ": header");
  const JsonObject object(json, file + ": header");
  if (json.size() > kMaxStoredTensors) {
    fail("{}: header: {} tensors; at most {} are read", file, json.size(), kMaxStoredTensors);
  }
  for (const auto& [name, value] : json.items()) {
    if (name == "__metadata__") {
      const JsonObject metadata(value, file + ": __metadata__");
      for (const auto& [key, text] : value.items()) metadata_[key] = metadata.string(key);
    } else {
      const JsonObject fields(value, fmt::format("{}: tensor {}", file, name));
      tensors_.push_back(parse_entry(name, fields, data));
    }
  }
  std::sort(tensors_.begin(), tensors_.end(), [](const auto& a, const auto& b) {
    return std::pair(a.bytes.data(), a.bytes.size()) < std::pair(b.bytes.data(), b.bytes.size());
  });
  check_layout(tensors_, data, file);
  for (size_t i = 0; i < tensors_.size(); ++i) index_[tensors_[i].name] = i;
}

const SafetensorsEntry* SafetensorsFile::find(std::string_view name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &tensors_[it->second];
}

const SafetensorsEntry& SafetensorsFile::operator[](std::string_view name) const {
  const SafetensorsEntry* entry = find(name);
  if (entry == nullptr) fail("{}: there is no tensor {}", path().string(), name);
  return *entry;
}

namespace {

void require_readable(const SafetensorsEntry& entry, const std::string& where) {
  if (!entry.dtype) {
    fail("{}: dtype {} cannot be read; convert the file to F32, F16 or BF16 first", where,
         entry.dtype_name);
  }
}

void require_convertible(const SafetensorsEntry& entry, DType to, const std::string& where) {
  if (*entry.dtype != to && !(is_floating(*entry.dtype) && is_floating(to))) {
    fail("{}: {} cannot be converted to {}", where, entry.dtype_name, dtype_name(to));
  }
}

}  // namespace

void SafetensorsFile::read_rows(const SafetensorsEntry& entry, int64_t begin, int64_t count,
                                DType dtype, void* out) const {
  const std::string where = fmt::format("{}: tensor {}", path().string(), entry.name);
  require_readable(entry, where);
  require_convertible(entry, dtype, where);
  const int64_t rows = entry.shape.empty() ? 1 : entry.shape[0];
  require(begin >= 0 && count >= 0 && begin <= rows && count <= rows - begin,
          "{}: rows {} + {} of {}", where, begin, count, rows);
  if (rows == 0) return;
  const int64_t row_bytes = static_cast<int64_t>(entry.bytes.size()) / rows;
  convert_elements(*entry.dtype, entry.bytes.data() + begin * row_bytes, dtype, out,
                   count * (row_bytes / dtype_size(*entry.dtype)));
}

void SafetensorsFile::read(const SafetensorsEntry& entry, const Tensor& destination) const {
  const std::string where = fmt::format("{}: tensor {}", path().string(), entry.name);
  require_readable(entry, where);
  const std::vector<int64_t> shape = entry.shape.empty() ? std::vector<int64_t>{1} : entry.shape;
  if (!std::equal(shape.begin(), shape.end(), destination.shape().begin(),
                  destination.shape().end())) {
    fail("{}: shape {} where {} is expected", where, entry.shape_string(),
         destination.shape_string());
  }
  require(destination.is_contiguous() && destination.device() == longgen::Device::kHost,
          "{}: the destination must be contiguous in host memory", where);
  require_convertible(entry, destination.dtype(), where);
  convert_elements(*entry.dtype, entry.bytes.data(), destination.dtype(), destination.raw(),
                   destination.numel());
}

int64_t SafetensorsSpec::bytes() const {
  return shape_bytes(shape, dtype_size(dtype) * 8, "tensor " + name);
}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path,
                                     std::vector<SafetensorsSpec> specs,
                                     const std::map<std::string, std::string>& metadata)
    : path_(path), specs_(std::move(specs)), file_(path) {
  // A plain Json sorts its keys: order does not matter to readers, offsets say where data lies.
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  int64_t offset = 0;
  for (const SafetensorsSpec& spec : specs_) {
    require(!header.contains(spec.name), "{}: tensor {} is to be written twice", path.string(),
            spec.name);
    const int64_t end = checked_add(offset, spec.bytes());
    header[spec.name] = {{"dtype", stored_type_name(spec.dtype)},
                         {"shape", spec.shape},
                         {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.resize(round_up<size_t>(text.size() + 8, 64) - 8, ' ');  // data starts aligned
  const uint64_t length = text.size();
  file_.write(std::as_bytes(std::span(&length, 1)));
  file_.write(text);
}

void SafetensorsWriter::write(const Tensor& tensor) {
  require(next_ < specs_.size(), "{}: more tensors are written than were announced",
          path_.string());
  const SafetensorsSpec& spec = specs_[next_++];
  const std::vector<int64_t> shape = spec.shape.empty() ? std::vector<int64_t>{1} : spec.shape;
  require(std::equal(shape.begin(), shape.end(), tensor.shape().begin(), tensor.shape().end()) &&
              tensor.is_contiguous() && tensor.device() == longgen::Device::kHost,
          "{}: tensor {} is announced as [{}], but {} is written", path_.string(), spec.name,
          fmt::join(spec.shape, ", "), tensor.shape_string());
  const auto* source = static_cast<const std::byte*>(tensor.raw());
  if (tensor.dtype() == spec.dtype) {
    file_.write(std::span(source, static_cast<size_t>(tensor.bytes())));
    return;
  }
  constexpr int64_t kPiece = 1 << 18;
  std::vector<double> piece(static_cast<size_t>(std::min(kPiece, tensor.numel())));
  for (int64_t begin = 0; begin < tensor.numel(); begin += kPiece) {
    const int64_t count = std::min(kPiece, tensor.numel() - begin);
    convert_elements(tensor.dtype(), source + begin * dtype_size(tensor.dtype()), spec.dtype,
                     piece.data(), count);
    file_.write(
        std::as_bytes(std::span(piece)).first(static_cast<size_t>(count * dtype_size(spec.dtype))));
  }
}

void SafetensorsWriter::commit() {
  require(next_ == specs_.size(), "{}: only {} of {} announced tensors were written",
          path_.string(), next_, specs_.size());
  file_.commit();
}

}  // namespace longgen::formats
