// JSON from files that may be damaged or hostile: bounded depth, no duplicate keys, and fields read
// by type and range with errors that name the file and the field.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace longgen::formats {

using Json = nlohmann::json;
// Keeps the order in which keys were written; lookups are linear.
using OrderedJson = nlohmann::ordered_json;

constexpr int kMaxJsonDepth = 64;

// Throws Error naming `file`, what is wrong and (for syntax) the byte. Refuses NaN and Infinity,
// invalid UTF-8, deeper nesting than kMaxJsonDepth, duplicate keys, text after the value.
Json parse_json(std::string_view text, const std::string& file);
Json read_json_file(const std::filesystem::path& path, size_t max_bytes = size_t{100} << 20);

// What a parser's exception says, for people: without its code, and not at any length.
std::string json_reason(const Json::exception& error);

// Short text of a value for error messages.
std::string describe_json(const Json& value);

// A Json or OrderedJson as text for people and files. Strings may hold any bytes: what is no UTF-8
// becomes U+FFFD. indent -1: one line.
template <typename Value>
std::string dump_json(const Value& value, int indent = -1) {
  return value.dump(indent, ' ', false, Value::error_handler_t::replace);
}

// A JSON object and where it stands. It refers to the Json, which must outlive it.
class JsonObject {
 public:
  // `where` is the file, or "file: field". Throws Error unless `value` is an object.
  JsonObject(const Json& value, std::string where);

  const std::string& where() const { return where_; }
  const Json& json() const { return *value_; }

  // Present and not null.
  bool has(std::string_view key) const { return find(key) != nullptr; }
  // Null pointer when absent or null.
  const Json* find(std::string_view key) const;
  // Throws Error when absent or null.
  const Json& at(std::string_view key) const;

  // All throw Error naming the field when it has another type or is out of range; the versions with
  // a default return it when the field is absent or null.
  int64_t integer(std::string_view key, int64_t min, int64_t max) const;
  int64_t integer_or(std::string_view key, int64_t otherwise, int64_t min, int64_t max) const;
  // A finite number in [min, max].
  double number(std::string_view key, double min, double max) const;
  double number_or(std::string_view key, double otherwise, double min, double max) const;
  bool boolean_or(std::string_view key, bool otherwise) const;
  std::string string(std::string_view key) const;
  std::string string_or(std::string_view key, std::string otherwise) const;
  JsonObject object(std::string_view key) const;
  // An array, or an integer standing for an array of one.
  std::vector<int64_t> integers(std::string_view key, int64_t min, int64_t max) const;

  // Throws Error: "<where>: <key> <problem>".
  [[noreturn]] void fail_at(std::string_view key, std::string_view problem) const;

 private:
  int64_t check_integer(std::string_view key, const Json& value, int64_t min, int64_t max) const;

  const Json* value_;
  std::string where_;
};

}  // namespace longgen::formats
