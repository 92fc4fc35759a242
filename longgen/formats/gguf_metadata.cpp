// Typed access to GGUF metadata.
#include "longgen/base/error.h"
#include "longgen/formats/gguf.h"

namespace longgen::formats {

void GgufFile::fail_at(std::string_view key, std::string_view problem) const {
  fail("{}: metadata key {} {}", path().string(), key, problem);
}

const GgufValue& GgufFile::at(std::string_view key) const {
  const auto it = metadata_.find(key);
  if (it == metadata_.end()) fail_at(key, "is missing");
  return it->second;
}

template <typename T>
const T& GgufFile::get(std::string_view key, std::string_view expected) const {
  const T* value = std::get_if<T>(&at(key));
  if (value == nullptr) fail_at(key, fmt::format("must be {}", expected));
  return *value;
}

int64_t GgufFile::integer(std::string_view key, int64_t min, int64_t max) const {
  const int64_t value = get<int64_t>(key, "an integer");
  if (value < min || value > max) {
    fail_at(key, fmt::format("must be an integer from {} to {}, not {}", min, max, value));
  }
  return value;
}

int64_t GgufFile::integer_or(std::string_view key, int64_t otherwise, int64_t min,
                             int64_t max) const {
  return has(key) ? integer(key, min, max) : otherwise;
}

double GgufFile::number(std::string_view key, double min, double max) const {
  const GgufValue& stored = at(key);
  const int64_t* whole = std::get_if<int64_t>(&stored);
  const double value =
      whole != nullptr ? static_cast<double>(*whole) : get<double>(key, "a number");
  if (!(value >= min && value <= max)) {  // refuses NaN too
    fail_at(key, fmt::format("must be a number from {} to {}, not {}", min, max, value));
  }
  return value;
}

double GgufFile::number_or(std::string_view key, double otherwise, double min, double max) const {
  return has(key) ? number(key, min, max) : otherwise;
}

bool GgufFile::boolean_or(std::string_view key, bool otherwise) const {
  return has(key) ? get<bool>(key, "a boolean") : otherwise;
}

const std::string& GgufFile::string(std::string_view key) const {
  return get<std::string>(key, "a string");
}

std::string GgufFile::string_or(std::string_view key, std::string_view otherwise) const {
  return has(key) ? string(key) : std::string(otherwise);
}

const std::vector<std::string>& GgufFile::strings(std::string_view key) const {
  return get<std::vector<std::string>>(key, "an array of strings");
}

const std::vector<double>& GgufFile::numbers(std::string_view key) const {
  return get<std::vector<double>>(key, "an array of numbers");
}

const std::vector<int64_t>& GgufFile::integers(std::string_view key) const {
  return get<std::vector<int64_t>>(key, "an array of integers");
}

}  // namespace longgen::formats
