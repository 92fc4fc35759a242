// GGUF, versions 2 and 3, little-endian
// (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). A model may be split over files
// NAME-00001-of-0000N.gguf (split.count, split.no, split.tensors.count, as llama-gguf-split writes
// them): the first has the metadata, all have tensors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "longgen/base/byte_reader.h"
#include "longgen/base/mapped_file.h"
#include "longgen/formats/dequantize.h"
#include "longgen/tensor/tensor.h"

namespace longgen::formats {

// A metadata value. Integers of every width become int64 (uint64 beyond its range is an Error),
// floats double; booleans in arrays become 0 and 1. Arrays of arrays are an Error.
using GgufValue = std::variant<bool, int64_t, double, std::string, std::vector<int64_t>,
                               std::vector<double>, std::vector<std::string>>;

struct GgufTensor {
  std::string name;
  uint32_t type = 0;                 // ggml's number; readable when find_ggml_type knows it
  std::vector<int64_t> shape;        // [rows ..., columns]: ggml's dimensions reversed
  uint64_t offset = 0;               // in the data section of its file
  size_t part = 0;                   // of a split model, counted from 0
  std::span<const std::byte> bytes;  // empty when the type is not readable

  std::string shape_string() const;  // "[576, 576] Q4_1"
};

class GgufFile {
 public:
  // Maps the file and checks everything against its size: counts, strings, alignment, tensor
  // extents, overlaps. Throws Error naming file, field and offset. Of a split model the first file
  // is given; the others are opened with it, and their tensors are found like its own. Throws Error
  // naming a part that is missing or that does not belong to it.
  explicit GgufFile(const std::filesystem::path& path);
  ~GgufFile();
  // Whether the file starts with GGUF's magic.
  static bool recognise(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return file_.path(); }
  // The file that holds a tensor.
  const std::filesystem::path& path_of(const GgufTensor& tensor) const;
  uint32_t version() const { return version_; }
  const std::map<std::string, GgufValue, std::less<>>& metadata() const { return metadata_; }

  bool has(std::string_view key) const { return metadata_.find(key) != metadata_.end(); }
  // Throw Error naming file and key when it is absent (unless there is a default), has another
  // type, or is out of range.
  int64_t integer(std::string_view key, int64_t min, int64_t max) const;
  int64_t integer_or(std::string_view key, int64_t otherwise, int64_t min, int64_t max) const;
  double number(std::string_view key, double min, double max) const;
  double number_or(std::string_view key, double otherwise, double min, double max) const;
  bool boolean_or(std::string_view key, bool otherwise) const;
  const std::string& string(std::string_view key) const;
  std::string string_or(std::string_view key, std::string_view otherwise) const;
  const std::vector<std::string>& strings(std::string_view key) const;
  const std::vector<double>& numbers(std::string_view key) const;
  const std::vector<int64_t>& integers(std::string_view key) const;

  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  // Null when there is none.
  const GgufTensor* find(std::string_view name) const;

  // Rows [begin, begin + count) of a tensor seen as [numel / columns, columns], as f32 into
  // out [count * columns]. Throws Error when the type is not readable.
  void read_rows(const GgufTensor& tensor, int64_t begin, int64_t count, float* out) const;

  void drop_resident() const;

 private:
  struct OnePart {};
  GgufFile(const std::filesystem::path& path, OnePart);  // looks for no other files
  void open_parts();
  void add_part(const std::filesystem::path& path, int64_t number, int64_t count);
  void read_header(ByteReader& reader);
  void read_metadata(ByteReader& reader, uint64_t count);
  void read_tensor_infos(ByteReader& reader, uint64_t count);
  void place_tensors(const ByteReader& reader);
  const GgufValue& at(std::string_view key) const;
  [[noreturn]] void fail_at(std::string_view key, std::string_view problem) const;
  template <typename T>
  const T& get(std::string_view key, std::string_view expected) const;

  MappedFile file_;
  uint32_t version_ = 0;
  std::map<std::string, GgufValue, std::less<>> metadata_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string, size_t, std::less<>> index_;
  std::vector<std::unique_ptr<GgufFile>> parts_;  // the second and later ones
};

}  // namespace longgen::formats
