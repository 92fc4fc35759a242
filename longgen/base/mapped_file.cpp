#include "longgen/base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "longgen/base/error.h"

#ifdef __has_feature
#if __has_feature(address_sanitizer) && !defined(__SANITIZE_ADDRESS__)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace longgen {
namespace {

#ifdef __SANITIZE_ADDRESS__
// The rest of the last page is readable memory; under AddressSanitizer reading it is caught.
constexpr size_t kPage = 4096;

size_t tail_bytes(size_t size) { return (kPage - size % kPage) % kPage; }
void guard_tail(const std::byte* data, size_t size) {
  __asan_poison_memory_region(data + size, tail_bytes(size));
}
void unguard_tail(const std::byte* data, size_t size) {
  __asan_unpoison_memory_region(data + size, tail_bytes(size));
}
#else
void guard_tail(const std::byte*, size_t) {}
void unguard_tail(const std::byte*, size_t) {}
#endif

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  // Without O_NONBLOCK a pipe that nobody writes to would hold the program here for ever.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) fail("cannot open {}: {}", path.string(), std::strerror(errno));
  struct stat status {};
  const bool regular = fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
  if (!regular) {
    close(fd);
    fail("{} is {}, not a regular file", path.string(),
         S_ISDIR(status.st_mode) ? "a folder" : "a pipe or a device");
  }
  size_ = static_cast<size_t>(status.st_size);
  if (size_ > 0) {
    void* data = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
    const int reason = errno;
    close(fd);
    if (data == MAP_FAILED) fail("cannot map {}: {}", path.string(), std::strerror(reason));
    data_ = static_cast<const std::byte*>(data);
    guard_tail(data_, size_);
  } else {
    close(fd);
  }
}

MappedFile::~MappedFile() {
  if (data_ == nullptr) return;
  unguard_tail(data_, size_);
  munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

void MappedFile::drop_resident() const {
  if (data_ != nullptr) madvise(const_cast<std::byte*>(data_), size_, MADV_DONTNEED);
}

std::string read_text_file(const std::filesystem::path& path, size_t max_bytes) {
  const MappedFile file(path);
  if (file.size() > max_bytes) {
    fail("{} has {} bytes; at most {} are read here", path.string(), file.size(), max_bytes);
  }
  const auto bytes = file.bytes();
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

}  // namespace longgen
