#include "longgen/formats/json.h"

#include <cmath>
#include <set>

#include "longgen/base/error.h"
#include "longgen/base/mapped_file.h"

namespace longgen::formats {
namespace {

// Watches the parser: nesting and repeated keys, neither of which nlohmann's parser refuses.
class Watcher {
 public:
  explicit Watcher(const std::string& file) : file_(file) {}

  bool operator()(int depth, Json::parse_event_t event, Json& parsed) {
    using Event = Json::parse_event_t;
    if (event == Event::object_start || event == Event::array_start) {
      if (depth >= kMaxJsonDepth) {
        fail("{}: JSON is nested deeper than {} levels; the file is damaged or not what it claims",
             file_, kMaxJsonDepth);
      }
    }
    if (event == Event::object_start) keys_.emplace_back();
    if (event == Event::object_end) keys_.pop_back();
    if (event == Event::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys_.back().insert(key).second) {
        fail("{}: key \"{}\" appears twice in one JSON object; remove one", file_, key);
      }
    }
    return true;
  }

 private:
  const std::string& file_;
  std::vector<std::set<std::string>> keys_;
};

}  // namespace

std::string json_reason(const Json::exception& error) {
  std::string reason = error.what();
  // "[json.exception.parse_error.101] parse error at line 1 ...": the code helps nobody.
  if (const size_t end = reason.find("] "); reason.starts_with('[') && end != std::string::npos) {
    reason.erase(0, end + 2);
  }
  if (reason.size() > 300) reason = reason.substr(0, 300) + "...";
  return reason;
}

Json parse_json(std::string_view text, const std::string& file) {
  Watcher watcher(file);
  try {
    return Json::parse(text.begin(), text.end(), std::ref(watcher));
  } catch (const Json::exception& error) {
    fail("{}: not valid JSON: {}", file, json_reason(error));
  }
}

Json read_json_file(const std::filesystem::path& path, size_t max_bytes) {
  return parse_json(read_text_file(path, max_bytes), path.string());
}

std::string describe_json(const Json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return fmt::format("an array of {}", value.size());
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 60) + "...";
  return text;
}

JsonObject::JsonObject(const Json& value, std::string where)
    : value_(&value), where_(std::move(where)) {
  if (!value.is_object()) fail("{}: expected an object, found {}", where_, describe_json(value));
}

const Json* JsonObject::find(std::string_view key) const {
  const auto it = value_->find(key);
  return it == value_->end() || it->is_null() ? nullptr : &*it;
}

const Json& JsonObject::at(std::string_view key) const {
  const Json* value = find(key);
  if (value == nullptr) fail_at(key, "is missing");
  return *value;
}

void JsonObject::fail_at(std::string_view key, std::string_view problem) const {
  fail("{}: {} {}", where_, key, problem);
}

int64_t JsonObject::check_integer(std::string_view key, const Json& value, int64_t min,
                                  int64_t max) const {
  // Values beyond int64 parse as unsigned, and beyond that as floating point.
  const bool fits = value.is_number_integer() &&
                    !(value.is_number_unsigned() &&
                      value.get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()});
  if (!fits || value.get<int64_t>() < min || value.get<int64_t>() > max) {
    fail_at(key, fmt::format("must be an integer from {} to {}, not {}", min, max,
                             describe_json(value)));
  }
  return value.get<int64_t>();
}

int64_t JsonObject::integer(std::string_view key, int64_t min, int64_t max) const {
  return check_integer(key, at(key), min, max);
}

int64_t JsonObject::integer_or(std::string_view key, int64_t otherwise, int64_t min,
                               int64_t max) const {
  return has(key) ? integer(key, min, max) : otherwise;
}

double JsonObject::number(std::string_view key, double min, double max) const {
  const Json& value = at(key);
  if (!value.is_number() || !(value.get<double>() >= min && value.get<double>() <= max)) {
    fail_at(key,
            fmt::format("must be a number from {} to {}, not {}", min, max, describe_json(value)));
  }
  return value.get<double>();
}

double JsonObject::number_or(std::string_view key, double otherwise, double min, double max) const {
  return has(key) ? number(key, min, max) : otherwise;
}

bool JsonObject::boolean_or(std::string_view key, bool otherwise) const {
  const Json* value = find(key);
  if (value == nullptr) return otherwise;
  if (!value->is_boolean()) {
    fail_at(key, fmt::format("must be true or false, not {}", describe_json(*value)));
  }
  return value->get<bool>();
}

std::string JsonObject::string(std::string_view key) const {
  const Json& value = at(key);
  if (!value.is_string()) {
    fail_at(key, fmt::format("must be a string, not {}", describe_json(value)));
  }
  return value.get<std::string>();
}

std::string JsonObject::string_or(std::string_view key, std::string otherwise) const {
  return has(key) ? string(key) : std::move(otherwise);
}

JsonObject JsonObject::object(std::string_view key) const {
  return JsonObject(at(key), fmt::format("{}: {}", where_, key));
}

std::vector<int64_t> JsonObject::integers(std::string_view key, int64_t min, int64_t max) const {
  const Json& value = at(key);
  if (!value.is_array()) return {check_integer(key, value, min, max)};
  std::vector<int64_t> result;
  result.reserve(value.size());
  for (const Json& element : value) result.push_back(check_integer(key, element, min, max));
  return result;
}

}  // namespace longgen::formats
