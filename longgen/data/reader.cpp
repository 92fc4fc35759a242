#include "longgen/data/reader.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <system_error>

#include "longgen/base/error.h"
#include "longgen/base/mapped_file.h"
#include "longgen/formats/json.h"

namespace longgen::data {
namespace {

namespace fs = std::filesystem;

bool is_jsonl(const fs::path& path) { return path.extension() == ".jsonl"; }

bool is_readable_kind(const fs::path& path) {
  return is_jsonl(path) || path.extension() == ".txt" || path.extension() == ".md";
}

SourceFile describe(const fs::path& path) {
  std::error_code error;
  const auto bytes = fs::file_size(path, error);
  if (error) fail("{}: cannot be read: {}", path.string(), error.message());
  const auto time = fs::last_write_time(path, error);
  if (error) fail("{}: cannot be read: {}", path.string(), error.message());
  const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch());
  return {path, static_cast<int64_t>(bytes), ns.count(), is_jsonl(path)};
}

std::vector<fs::path> files_below(const fs::path& folder) {
  std::vector<fs::path> found;
  std::error_code error;
  fs::recursive_directory_iterator it(folder, error), end;
  for (; !error && it != end; it.increment(error)) {
    if (is_readable_kind(it->path()) && it->is_regular_file()) found.push_back(it->path());
  }
  if (error) fail("{}: cannot be listed: {}", folder.string(), error.message());
  std::sort(found.begin(), found.end(),
            [](const fs::path& a, const fs::path& b) { return a.native() < b.native(); });
  return found;
}

std::string text_of_line(std::string_view line, const SourceFile& file, int64_t number,
                         const std::string& field) {
  nlohmann::json value;
  try {
    value = nlohmann::json::parse(line);
  } catch (const nlohmann::json::exception& e) {
    fail("{}:{}: not a JSON object: {}", file.path.string(), number, formats::json_reason(e));
  }
  if (!value.is_object()) {
    fail("{}:{}: not a JSON object but {}", file.path.string(), number, value.type_name());
  }
  const auto member = value.find(field);
  if (member == value.end()) {
    fail("{}:{}: has no \"{}\"; name the member that holds the text with data.text_field",
         file.path.string(), number, field);
  }
  if (!member->is_string()) {
    fail("{}:{}: \"{}\" is {}, not a string", file.path.string(), number, field,
         member->type_name());
  }
  return std::move(member->get_ref<std::string&>());
}

}  // namespace

std::vector<SourceFile> find_files(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) fail("{}: no such file or folder", path.string());
  if (!fs::is_directory(status)) return {describe(path)};
  std::vector<SourceFile> files;
  for (const fs::path& file : files_below(path)) files.push_back(describe(file));
  if (files.empty()) {
    fail("{}: holds no .txt, .md or .jsonl file; name a folder of text", path.string());
  }
  return files;
}

void read_documents(const SourceFile& file, const std::string& field,
                    const std::function<void(std::string_view)>& consume) {
  const MappedFile map(file.path);
  const std::string_view all(reinterpret_cast<const char*>(map.bytes().data()), map.size());
  if (!file.jsonl) {
    consume(all);
    return;
  }
  int64_t number = 1;
  for (size_t begin = 0; begin < all.size(); ++number) {
    const size_t end = std::min(all.find('\n', begin), all.size());
    const std::string_view line = all.substr(begin, end - begin);
    if (line.find_first_not_of(" \t\r") != std::string_view::npos) {
      consume(text_of_line(line, file, number, field));
    }
    begin = end + 1;
  }
}

}  // namespace longgen::data
