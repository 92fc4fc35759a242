#include <algorithm>
#include <set>

#include "longgen/formats/json.h"
#include "longgen/formats/safetensors.h"

namespace longgen::formats {
namespace {

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";
constexpr size_t kMaxShards = 10'000;

// A hostile index must not reach files outside its folder.
void check_shard_name(const std::string& name, const JsonObject& map, const std::string& tensor) {
  const bool plain = !name.empty() && name != "." && name != ".." &&
                     name.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
  if (!plain) {
    map.fail_at(tensor, fmt::format("names the file {}; only plain file names of the model's own "
                                    "folder are read",
                                    describe_json(Json(name))));
  }
}

}  // namespace

bool ShardedSafetensors::exists(const std::filesystem::path& directory) {
  return std::filesystem::exists(directory / kSingle) ||
         std::filesystem::exists(directory / kIndex);
}

ShardedSafetensors::ShardedSafetensors(const std::filesystem::path& directory) {
  if (!std::filesystem::exists(directory / kSingle)) {
    open_index(directory);
    return;
  }
  files_.push_back(std::make_unique<SafetensorsFile>(directory / kSingle));
  for (const SafetensorsEntry& entry : files_[0]->tensors()) owner_[entry.name] = files_[0].get();
}

void ShardedSafetensors::open_index(const std::filesystem::path& directory) {
  const std::filesystem::path index_path = directory / kIndex;
  const Json json = read_json_file(index_path);
  const JsonObject index(json, index_path.string());
  const JsonObject map = index.object("weight_map");

  std::map<std::string, std::set<std::string>> tensors_of;
  for (const auto& [tensor, value] : map.json().items()) {
    const std::string file = map.string(tensor);
    check_shard_name(file, map, tensor);
    tensors_of[file].insert(tensor);
  }
  if (tensors_of.empty()) index.fail_at("weight_map", "is empty");
  if (tensors_of.size() > kMaxShards) {
    index.fail_at("weight_map", fmt::format("names {} files; at most {} are read",
                                            tensors_of.size(), kMaxShards));
  }
  for (const auto& [name, tensors] : tensors_of) {
    std::error_code ignored;  // a name that is too long, say, is no file either
    if (!std::filesystem::exists(directory / name, ignored)) {
      map.fail_at(*tensors.begin(), fmt::format("lies in {}, which is not in the folder; fetch the "
                                                "missing file",
                                                name));
    }
    const auto& file = files_.emplace_back(std::make_unique<SafetensorsFile>(directory / name));
    for (const std::string& tensor : tensors) {
      if (file->find(tensor) == nullptr) {
        map.fail_at(tensor, fmt::format("should lie in {}, which does not hold it", name));
      }
      owner_[tensor] = file.get();
    }
    for (const SafetensorsEntry& entry : file->tensors()) {
      if (!tensors.contains(entry.name)) {
        fail("{}: tensor {} is not listed for this file in {}", file->path().string(), entry.name,
             kIndex);
      }
    }
  }
}

const SafetensorsEntry* ShardedSafetensors::find(std::string_view name) const {
  const auto it = owner_.find(name);
  return it == owner_.end() ? nullptr : it->second->find(name);
}

std::vector<std::string> ShardedSafetensors::names() const {
  std::vector<std::string> names;
  for (const auto& [name, file] : owner_) names.push_back(name);
  return names;
}

const SafetensorsFile& ShardedSafetensors::file_of(std::string_view name) const {
  const auto it = owner_.find(name);
  if (it == owner_.end()) fail("there is no tensor {}", name);
  return *it->second;
}

}  // namespace longgen::formats
