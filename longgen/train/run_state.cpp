#include "longgen/train/run_state.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <nlohmann/json.hpp>
#include <system_error>

#include "longgen/base/atomic_file.h"
#include "longgen/base/error.h"
#include "longgen/base/log.h"
#include "longgen/base/mapped_file.h"
#include "longgen/data/hash.h"
#include "longgen/formats/json.h"

namespace longgen::train {
namespace {

namespace fs = std::filesystem;
using data::Hash128;
using data::Hasher;
using nlohmann::json;

constexpr std::string_view kAside = ".writing";
constexpr std::string_view kPrefix = "step-";
constexpr const char* kChecksums = "checksums";

struct NamedSet {
  const char* file;
  const model::ParameterSet* set;
};

std::array<NamedSet, 3> state_sets(const Optimizer& optimizer) {
  return {{{"master", &optimizer.master()},
           {"moment1", &optimizer.first_moment()},
           {"moment2", &optimizer.second_moment()}}};
}

// A tensor's bytes in host memory: its own, or a copy of a device's.
class HostBytes {
 public:
  HostBytes(Backend& backend, const Tensor& tensor) : backend_(backend), tensor_(tensor) {
    const auto size = static_cast<size_t>(tensor.bytes());
    if (tensor.device() != Device::kHost) staged_.resize(size);
    bytes_ = {staged_.empty() ? static_cast<std::byte*>(tensor.raw()) : staged_.data(), size};
  }

  std::span<std::byte> bytes() const { return bytes_; }
  void from_device() const {
    if (!staged_.empty()) backend_.copy(host(), tensor_);
  }
  void to_device() const {
    if (!staged_.empty()) backend_.copy(tensor_, host());
  }

 private:
  Tensor host() const { return Tensor(bytes_.data(), tensor_.dtype(), tensor_.shape()); }

  Backend& backend_;
  const Tensor& tensor_;
  std::vector<std::byte> staged_;
  std::span<std::byte> bytes_;
};

int64_t set_bytes(const model::ParameterSet& set) {
  int64_t sum = 0;
  for (const Tensor& tensor : set.tensors()) sum += tensor.bytes();
  return sum;
}

std::string checksum_line(const std::string& name, int64_t bytes, Hash128 hash) {
  return fmt::format("{} {} {}\n", hash.hex(), bytes, name);
}

std::string write_set(const fs::path& folder, const NamedSet& named, Backend& backend) {
  AtomicFile file(folder / named.file);
  Hasher hasher;
  for (const Tensor& tensor : named.set->tensors()) {
    const HostBytes host(backend, tensor);
    host.from_device();
    file.write(host.bytes());
    hasher.update(host.bytes());
  }
  file.commit();
  return checksum_line(named.file, set_bytes(*named.set), hasher.digest());
}

std::string write_text(const fs::path& folder, const std::string& name, std::string_view text) {
  write_file_atomically(folder / name, text);
  return checksum_line(name, static_cast<int64_t>(text.size()), data::hash_text(text));
}

json to_json(const RunState& state, const Optimizer& optimizer) {
  json value = {{"format", 1},
                {"step", state.step},
                {"epoch", state.position.epoch},
                {"sequence", state.position.sequence},
                {"tokens", state.tokens},
                {"rng", {{"seed", state.seed}, {"shuffle_stream", state.position.epoch}}},
                {"data_hash", state.data_hash},
                {"backend", state.backend},
                {"dtype", dtype_name(optimizer.master().dtype())}};
  for (const model::ParamSpec& spec : optimizer.master().specs()) {
    value["parameters"].push_back({{"name", spec.name}, {"shape", spec.shape}});
  }
  return value;
}

RunState from_json(const formats::JsonObject& value, const std::string& recipe) {
  const auto count = [&](std::string_view key) { return value.integer(key, 0, INT64_MAX); };
  RunState state;
  state.step = count("step");
  state.position = {count("epoch"), count("sequence")};
  state.tokens = count("tokens");
  const formats::JsonObject rng = value.object("rng");
  if (!rng.at("seed").is_number_unsigned()) rng.fail_at("seed", "is not a whole number");
  state.seed = rng.at("seed").get<uint64_t>();
  state.data_hash = value.string("data_hash");
  state.backend = value.string("backend");
  state.recipe = recipe;
  return state;
}

// Throws Error with the reason when a checkpoint is not complete.
void verify(const fs::path& folder) {
  const std::string text = read_text_file(folder / kChecksums, size_t{1} << 20);
  const size_t last = text.size() < 2 ? std::string::npos : text.rfind('\n', text.size() - 2);
  if (last == std::string::npos || text.back() != '\n' ||
      text.substr(last + 1) != data::hash_text(text.substr(0, last + 1)).hex() + "\n") {
    fail("{}: the checksums are torn", folder.string());
  }
  for (size_t begin = 0; begin <= last;) {
    const size_t end = text.find('\n', begin);
    const std::string line = text.substr(begin, end - begin);
    const size_t name_at = line.rfind(' ') + 1;
    const MappedFile file(folder / line.substr(name_at));
    if (line + "\n" != checksum_line(line.substr(name_at), static_cast<int64_t>(file.size()),
                                     data::hash_bytes(file.bytes()))) {
      fail("{}: {} does not match its checksum", folder.string(), line.substr(name_at));
    }
    begin = end + 1;
  }
}

RunState read_state(const fs::path& folder, json& value) {
  const fs::path file = folder / "state.json";
  value = formats::read_json_file(file, size_t{1} << 26);
  return from_json(formats::JsonObject(value, file.string()),
                   read_text_file(folder / "recipe.toml", size_t{1} << 20));
}

void check_parameters(const json& value, const Optimizer& optimizer, const fs::path& folder) {
  const json now = to_json({}, optimizer);
  if (value.value("dtype", json()) != now.at("dtype") ||
      value.value("parameters", json()) != now.at("parameters")) {
    fail("{}: holds another model than the recipe describes; use another output folder",
         folder.string());
  }
}

void read_set(const fs::path& folder, const NamedSet& named, Backend& backend) {
  const MappedFile file(folder / named.file);
  if (static_cast<int64_t>(file.size()) != set_bytes(*named.set)) {
    fail("{}: {} bytes, expected {}", file.path().string(), file.size(), set_bytes(*named.set));
  }
  size_t offset = 0;
  for (const Tensor& tensor : named.set->tensors()) {
    const HostBytes host(backend, tensor);
    const auto out = host.bytes();
    std::copy_n(file.bytes().begin() + static_cast<int64_t>(offset), out.size(), out.begin());
    host.to_device();
    offset += out.size();
  }
}

}  // namespace

CheckpointStore::CheckpointStore(fs::path folder, int64_t keep)
    : folder_(std::move(folder)), keep_(keep) {
  std::error_code ignored;
  fs::remove_all(folder_ / kAside, ignored);
}

fs::path CheckpointStore::path(int64_t step) const {
  return folder_ / fmt::format("{}{}", kPrefix, step);
}

std::vector<int64_t> CheckpointStore::steps() const {
  std::vector<int64_t> found;
  std::error_code error;
  for (fs::directory_iterator it(folder_, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    int64_t step = -1;
    if (!name.starts_with(kPrefix)) continue;
    const auto [stop, bad] =
        std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), step);
    if (bad == std::errc() && stop == name.data() + name.size()) found.push_back(step);
  }
  std::sort(found.rbegin(), found.rend());
  return found;
}

void CheckpointStore::save(const RunState& state, const Optimizer& optimizer) const {
  const fs::path aside = folder_ / kAside, final_path = path(state.step);
  std::error_code error;
  fs::remove_all(aside, error);
  create_folders(aside);
  try {
    std::string checksums;
    for (const NamedSet& named : state_sets(optimizer)) {
      checksums += write_set(aside, named, optimizer.backend());
    }
    checksums += write_text(aside, "state.json", to_json(state, optimizer).dump(1));
    checksums += write_text(aside, "recipe.toml", state.recipe);
    write_file_atomically(aside / kChecksums, checksums + data::hash_text(checksums).hex() + "\n");
    sync_directory(aside);
    fs::remove_all(final_path);
    fs::rename(aside, final_path);
    sync_directory(folder_);
  } catch (const fs::filesystem_error& e) {
    fs::remove_all(aside, error);
    fail("the checkpoint of step {} was not written: {}", state.step, e.what());
  } catch (const Error& e) {
    fs::remove_all(aside, error);
    fail(
        "the checkpoint of step {} was not written: {}; earlier ones in {}, if any, are whole: "
        "make "
        "room and run the same command again",
        state.step, e.what(), folder_.string());
  }
  prune(state.step);
}

void CheckpointStore::prune(int64_t current) const {
  int64_t kept = 0;
  for (const int64_t step : steps()) {
    if (step <= current && kept < keep_) {
      ++kept;
      continue;
    }
    std::error_code error;
    fs::remove_all(path(step), error);
    if (error) warn("{}: cannot be removed: {}", path(step).string(), error.message());
  }
}

std::optional<int64_t> CheckpointStore::newest_complete() const {
  for (const int64_t step : steps()) {
    try {
      verify(path(step));
      return step;
    } catch (const Error& e) {
      if (named_damaged_.insert(step).second) {
        warn("skipping a damaged checkpoint: {}", e.what());
      }
    }
  }
  return std::nullopt;
}

std::optional<RunState> CheckpointStore::peek_newest() const {
  const auto step = newest_complete();
  if (!step) return std::nullopt;
  json value;
  return read_state(path(*step), value);
}

std::optional<RunState> CheckpointStore::load_newest(Optimizer& optimizer) const {
  const auto step = newest_complete();
  if (!step) return std::nullopt;
  json value;
  RunState state = read_state(path(*step), value);
  check_parameters(value, optimizer, path(*step));
  for (const NamedSet& named : state_sets(optimizer)) {
    read_set(path(*step), named, optimizer.backend());
  }
  optimizer.publish_master();
  return state;
}

}  // namespace longgen::train
