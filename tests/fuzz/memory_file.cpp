#include "tests/fuzz/memory_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <stdexcept>

namespace longgen::fuzz {
namespace {

namespace fs = std::filesystem;

// Thrown past the targets, which catch longgen::Error alone: the harness itself is broken.
void must(bool good, const char* what) {
  if (!good) throw std::runtime_error(std::string("the fuzz harness cannot ") + what);
}

void write_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    must(n > 0, "write a file in memory");
    bytes.remove_prefix(static_cast<size_t>(n));
  }
}

}  // namespace

MemoryFile::MemoryFile(std::string_view bytes) : fd_(memfd_create("fuzz", MFD_CLOEXEC)) {
  must(fd_ >= 0, "make a file in memory");
  write_all(fd_, bytes);
  path_ = "/proc/self/fd/" + std::to_string(fd_);
}

MemoryFile::~MemoryFile() { close(fd_); }

MemoryFolder::MemoryFolder() {
  const fs::path parent =
      fs::is_directory("/dev/shm") ? fs::path("/dev/shm") : fs::temp_directory_path();
  std::string name = (parent / "longgen-fuzz-XXXXXX").string();
  must(mkdtemp(name.data()) != nullptr, "make a folder in memory");
  path_ = name;
}

MemoryFolder::~MemoryFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

void MemoryFolder::write(const std::string& name, std::string_view bytes) const {
  const auto [entry, fresh] = there_.try_emplace(name, bytes);
  if (!fresh && entry->second == bytes) return;
  entry->second = bytes;
  const fs::path file = path_ / name;
  int fd = open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) {
    fs::create_directories(file.parent_path());
    fd = open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  }
  must(fd >= 0, "open a file in memory");
  write_all(fd, bytes);
  close(fd);
}

void MemoryFolder::remove(const std::string& name) const {
  if (there_.erase(name) > 0) unlink((path_ / name).c_str());
}

}  // namespace longgen::fuzz
