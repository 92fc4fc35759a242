// The safetensors format: 8 bytes header length, a JSON header {name: {dtype, shape,
// data_offsets}}, then the data of all tensors without gaps
// (https://github.com/huggingface/safetensors).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "longgen/base/atomic_file.h"
#include "longgen/base/mapped_file.h"
#include "longgen/tensor/tensor.h"

namespace longgen::formats {

// Refused beyond these: a header of 100 MB, a million tensors, 8 dimensions.
constexpr uint64_t kMaxSafetensorsHeader = 100'000'000;
constexpr size_t kMaxStoredTensors = 1'000'000;
constexpr size_t kMaxStoredRank = 8;

struct SafetensorsEntry {
  std::string name;
  std::string dtype_name;      // as in the file: "BF16"
  std::optional<DType> dtype;  // none: listed, but cannot be read
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;  // in the mapping; not aligned

  std::string shape_string() const;  // "[576, 576] BF16"
};

class SafetensorsFile {
 public:
  // Maps the file and checks its whole header: sizes against dtype and shape, no overlap, no gap,
  // no trailing bytes, no repeated name. Throws Error naming file, tensor and field.
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return file_.path(); }
  // In the order of their data.
  const std::vector<SafetensorsEntry>& tensors() const { return tensors_; }
  // Null when there is none.
  const SafetensorsEntry* find(std::string_view name) const;
  // Throws Error when there is none.
  const SafetensorsEntry& operator[](std::string_view name) const;
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  // Copies into `destination` (contiguous, host, same shape; a scalar is [1]), converting between
  // floating types. Throws Error naming the tensor.
  void read(const SafetensorsEntry& entry, const Tensor& destination) const;
  void read(std::string_view name, const Tensor& destination) const {
    read((*this)[name], destination);
  }

  // Elements of rows [begin, begin + count) of a tensor, converted to another floating dtype. Rows
  // are those of the first dimension. Throws Error naming the tensor.
  void read_rows(const SafetensorsEntry& entry, int64_t begin, int64_t count, DType dtype,
                 void* out) const;

  void drop_resident() const { file_.drop_resident(); }

 private:
  MappedFile file_;
  std::vector<SafetensorsEntry> tensors_;
  std::map<std::string, size_t, std::less<>> index_;
  std::map<std::string, std::string> metadata_;
};

// Writes a file tensor by tensor; only a piece of one tensor is in memory at a time.
struct SafetensorsSpec {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;

  int64_t bytes() const;
};

class SafetensorsWriter {
 public:
  // The header is written at once. Throws Error on repeated names or a failed write.
  SafetensorsWriter(const std::filesystem::path& path, std::vector<SafetensorsSpec> specs,
                    const std::map<std::string, std::string>& metadata = {});

  // The next tensor in the order of the specs: same shape, any floating dtype (converted).
  void write(const Tensor& tensor);
  // Throws Error when tensors are missing. Without commit() nothing is left behind.
  void commit();

 private:
  std::filesystem::path path_;
  std::vector<SafetensorsSpec> specs_;
  size_t next_ = 0;
  AtomicFile file_;
};

// "model.safetensors", or the shards that "model.safetensors.index.json" lists.
class ShardedSafetensors {
 public:
  // True when the folder holds one of the two.
  static bool exists(const std::filesystem::path& directory);
  // Opens all shards. Names in the index must be plain file names of the folder, and index and
  // shards must hold the same tensors. Throws Error naming file and tensor.
  explicit ShardedSafetensors(const std::filesystem::path& directory);

  // Null when there is none.
  const SafetensorsEntry* find(std::string_view name) const;
  // All names, sorted.
  std::vector<std::string> names() const;
  // The file that holds a tensor.
  const SafetensorsFile& file_of(std::string_view name) const;
  const std::vector<std::unique_ptr<SafetensorsFile>>& files() const { return files_; }

 private:
  void open_index(const std::filesystem::path& directory);

  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, const SafetensorsFile*, std::less<>> owner_;
};

}  // namespace longgen::formats
