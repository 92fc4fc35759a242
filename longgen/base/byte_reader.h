// Reads a hostile binary file field by field. Every read is bounded by the span; an error names the
// file, the field and the offset.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "longgen/base/error.h"

namespace longgen {

class ByteReader {
 public:
  ByteReader(std::span<const std::byte> bytes, std::string file_name)
      : bytes_(bytes), file_name_(std::move(file_name)) {}

  size_t offset() const { return offset_; }
  size_t remaining() const { return bytes_.size() - offset_; }
  const std::string& file_name() const { return file_name_; }

  // Little-endian number.
  template <typename T>
  requires std::is_arithmetic_v<T> T read(std::string_view field) {
    T value;
    std::memcpy(&value, take(sizeof(T), field).data(), sizeof(T));
    return value;
  }

  // The next `count` bytes.
  std::span<const std::byte> take(uint64_t count, std::string_view field) {
    if (count > remaining()) {
      fail(
          "{}: {} at offset {} needs {} bytes, but only {} remain; the file is truncated or "
          "damaged",
          file_name_, field, offset_, count, remaining());
    }
    auto part = bytes_.subspan(offset_, static_cast<size_t>(count));
    offset_ += static_cast<size_t>(count);
    return part;
  }

  void seek(uint64_t offset, std::string_view field) {
    if (offset > bytes_.size()) {
      fail("{}: {} points to offset {}, beyond the file's {} bytes", file_name_, field, offset,
           bytes_.size());
    }
    offset_ = static_cast<size_t>(offset);
  }

 private:
  std::span<const std::byte> bytes_;
  std::string file_name_;
  size_t offset_ = 0;
};

}  // namespace longgen
