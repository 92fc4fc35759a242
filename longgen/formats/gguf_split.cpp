// Models split over several GGUF files.
#include "longgen/base/error.h"
#include "longgen/formats/gguf.h"

namespace longgen::formats {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxParts = 65'535;  // split.count is an u16

std::string part_suffix(int64_t number, int64_t count) {
  return fmt::format("-{:05}-of-{:05}.gguf", number + 1, count);
}

// "dir/NAME", when the file is called as part `number` of `count` should be.
std::string split_stem(const fs::path& path, int64_t number, int64_t count) {
  const std::string name = path.string(), suffix = part_suffix(number, count);
  if (!name.ends_with(suffix)) {
    fail(
        "{}: metadata keys split.no and split.count: this is part {} of {}, so its name should end "
        "in {}; the other parts are found by their names",
        name, number + 1, count, suffix);
  }
  return name.substr(0, name.size() - suffix.size());
}

}  // namespace

void GgufFile::open_parts() {
  const int64_t count = integer_or("split.count", 1, 0, kMaxParts);
  if (count <= 1) return;
  const int64_t number = integer_or("split.no", 0, 0, count - 1);
  const std::string stem = split_stem(path(), number, count);
  if (number != 0) {
    fail("{}: this is part {} of {}; give the first, {}", path().string(), number + 1, count,
         stem + part_suffix(0, count));
  }
  for (int64_t i = 1; i < count; ++i) add_part(stem + part_suffix(i, count), i, count);
  const int64_t tensors = integer_or("split.tensors.count", static_cast<int64_t>(tensors_.size()),
                                     0, std::numeric_limits<int32_t>::max());
  if (tensors != static_cast<int64_t>(tensors_.size())) {
    fail("{}: metadata key split.tensors.count is {}, but the {} parts hold {} tensors",
         path().string(), tensors, count, tensors_.size());
  }
}

void GgufFile::add_part(const fs::path& path, int64_t number, int64_t count) {
  if (!fs::exists(path)) {
    fail("{}: part {} of {} is missing: {}", this->path().string(), number + 1, count,
         path.string());
  }
  // Not make_unique: the constructor is private.
  std::unique_ptr<GgufFile> part(new GgufFile(path, OnePart{}));
  const int64_t own_count = part->integer("split.count", 0, kMaxParts);
  const int64_t own_number = part->integer("split.no", 0, kMaxParts);
  if (own_count != count || own_number != number) {
    fail("{}: metadata keys split.no and split.count say part {} of {}, but it should be {} of {}",
         path.string(), own_number + 1, own_count, number + 1, count);
  }
  for (const GgufTensor& tensor : part->tensors_) {
    if (!index_.try_emplace(tensor.name, tensors_.size()).second) {
      fail("{}: tensor {} is in {} too", path.string(), tensor.name,
           path_of(*find(tensor.name)).string());
    }
    tensors_.push_back(tensor);
    tensors_.back().part = static_cast<size_t>(number);
  }
  parts_.push_back(std::move(part));
}

const fs::path& GgufFile::path_of(const GgufTensor& tensor) const {
  return tensor.part == 0 ? path() : parts_[tensor.part - 1]->path();
}

void GgufFile::drop_resident() const {
  file_.drop_resident();
  for (const auto& part : parts_) part->drop_resident();
}

}  // namespace longgen::formats
