#include <cstring>
#include <optional>
#include <vector>

#include "tests/fuzz/target.h"

namespace longgen::fuzz {
namespace {

constexpr uint32_t kString = 8, kArray = 9;

// A GGUF file taken apart, without any check but those that taking apart needs.
struct Key {
  std::string name;
  uint32_t type = 0, element_type = 0;
  std::string value;                  // scalars: their bytes; strings: their text
  std::vector<std::string> elements;  // arrays
};
struct TensorInfo {
  std::string name;
  std::vector<uint64_t> dims;
  uint32_t type = 0;
  uint64_t offset = 0;
};
struct Gguf {
  uint32_t version = 3;
  std::vector<Key> keys;
  std::vector<TensorInfo> tensors;
  std::string data;
};

size_t scalar_bytes(uint32_t type) {
  constexpr size_t kBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return type < std::size(kBytes) ? kBytes[type] : 0;
}

class Parser {
 public:
  explicit Parser(std::string_view bytes) : all_(bytes), rest_(bytes) {}

  std::optional<Gguf> parse() {
    Gguf file;
    if (take(4) != "GGUF") return {};
    file.version = number<uint32_t>();
    const auto tensors = number<uint64_t>(), keys = number<uint64_t>();
    for (uint64_t i = 0; i < keys && good_; ++i) file.keys.push_back(key());
    for (uint64_t i = 0; i < tensors && good_; ++i) file.tensors.push_back(tensor());
    if (!good_) return {};
    const size_t padding = (32 - (all_.size() - rest_.size()) % 32) % 32;
    file.data = rest_.substr(std::min(padding, rest_.size()));
    return file;
  }

 private:
  std::string take(uint64_t count) {
    if (count > rest_.size()) {
      good_ = false;
      return {};
    }
    const std::string part(rest_.substr(0, count));
    rest_.remove_prefix(count);
    return part;
  }
  template <typename T>
  T number() {
    T value{};
    const std::string bytes = take(sizeof(T));
    if (good_) std::memcpy(&value, bytes.data(), sizeof(T));
    return value;
  }
  std::string text() { return take(number<uint64_t>()); }
  std::string value_of(uint32_t type) {
    if (type == kString) return text();
    if (scalar_bytes(type) == 0) good_ = false;
    return take(scalar_bytes(type));
  }
  Key key() {
    Key key;
    key.name = text();
    key.type = number<uint32_t>();
    if (key.type != kArray) {
      key.value = value_of(key.type);
      return key;
    }
    key.element_type = number<uint32_t>();
    const auto count = number<uint64_t>();
    for (uint64_t i = 0; i < count && good_; ++i)
      key.elements.push_back(value_of(key.element_type));
    return key;
  }
  TensorInfo tensor() {
    TensorInfo tensor;
    tensor.name = text();
    const auto rank = number<uint32_t>();
    for (uint32_t i = 0; i < rank && good_; ++i) tensor.dims.push_back(number<uint64_t>());
    tensor.type = number<uint32_t>();
    tensor.offset = number<uint64_t>();
    return tensor;
  }

  std::string_view all_, rest_;
  bool good_ = true;
};

template <typename T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void put_text(std::string& out, const std::string& text) {
  put(out, uint64_t{text.size()});
  out += text;
}

void put_value(std::string& out, uint32_t type, const std::string& value) {
  if (type == kString) return put_text(out, value);
  std::string sized = value;
  sized.resize(scalar_bytes(type));
  out += sized;
}

std::string build(const Gguf& file) {
  std::string out = "GGUF";
  put(out, file.version);
  put(out, uint64_t{file.tensors.size()});
  put(out, uint64_t{file.keys.size()});
  for (const Key& key : file.keys) {
    put_text(out, key.name);
    put(out, key.type);
    if (key.type != kArray) {
      put_value(out, key.type, key.value);
      continue;
    }
    put(out, key.element_type);
    put(out, uint64_t{key.elements.size()});
    for (const std::string& element : key.elements) put_value(out, key.element_type, element);
  }
  for (const TensorInfo& tensor : file.tensors) {
    put_text(out, tensor.name);
    put(out, static_cast<uint32_t>(tensor.dims.size()));
    for (const uint64_t dim : tensor.dims) put(out, dim);
    put(out, tensor.type);
    put(out, tensor.offset);
  }
  if (!file.data.empty()) out.resize((out.size() + 31) / 32 * 32);
  return out + file.data;
}

template <typename T>
void shuffle_entries(std::vector<T>& entries, Draws& draw) {
  if (entries.empty()) return;
  const size_t a = draw.below(entries.size()), b = draw.below(entries.size());
  switch (draw.below(3)) {
    case 0:
      entries.erase(entries.begin() + static_cast<int64_t>(a));
      break;
    case 1: {
      const T copy = entries[a];
      entries.insert(entries.begin() + static_cast<int64_t>(b), copy);
      break;
    }
    default:
      std::swap(entries[a], entries[b]);
  }
}

void mutate_key(Key& key, Draws& draw, const MutateBytes& mutate_bytes) {
  if (draw.one_in(12)) {
    key.name = mutate_bytes(key.name, 80);
  } else if (draw.one_in(12)) {
    key.type = static_cast<uint32_t>(draw.below(14));
  } else if (key.type != kArray) {
    key.value = mutate_bytes(key.value, key.type == kString ? 128 : 8);
  } else if (draw.one_in(3)) {
    shuffle_entries(key.elements, draw);
  } else if (draw.one_in(16)) {
    key.element_type = static_cast<uint32_t>(draw.below(14));
  } else if (!key.elements.empty()) {
    std::string& element = key.elements[draw.below(key.elements.size())];
    element = mutate_bytes(element, 64);
  }
}

void mutate_tensor(TensorInfo& tensor, Draws& draw, const MutateBytes& mutate_bytes) {
  switch (draw.below(6)) {
    case 0:
      tensor.name = mutate_bytes(tensor.name, 80);
      break;
    case 1:
      shuffle_entries(tensor.dims, draw);
      break;
    case 2:
      if (!tensor.dims.empty())
        tensor.dims[draw.below(tensor.dims.size())] = draw.below(size_t{1} << draw.below(63));
      break;
    case 3:
      if (!tensor.dims.empty()) tensor.dims[0] = 32 * draw.below(16);
      break;
    case 4:
      tensor.offset = 32 * draw.below(64);
      break;
    default:
      tensor.type = static_cast<uint32_t>(draw.below(42));
  }
}

}  // namespace

std::string mutate_gguf(std::string_view bytes, size_t max_size, uint32_t seed,
                        const MutateBytes& mutate_bytes) {
  Draws draw(seed);
  std::optional<Gguf> file;
  if (!draw.one_in(8)) file = Parser(bytes).parse();
  if (!file) return mutate_bytes(std::string(bytes), max_size);
  const size_t choice = draw.below(10);
  if (choice == 0) {
    shuffle_entries(file->keys, draw);
  } else if (choice == 1) {
    shuffle_entries(file->tensors, draw);
  } else if (choice == 2) {
    file->data = mutate_bytes(file->data, 8192);
  } else if (choice <= 4 && !file->tensors.empty()) {
    mutate_tensor(file->tensors[draw.below(file->tensors.size())], draw, mutate_bytes);
  } else if (!file->keys.empty()) {
    mutate_key(file->keys[draw.below(file->keys.size())], draw, mutate_bytes);
  }
  std::string out = build(*file);
  if (out.size() > max_size) out.resize(max_size);
  return out;
}

}  // namespace longgen::fuzz
