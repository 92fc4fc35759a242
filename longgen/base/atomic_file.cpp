#include "longgen/base/atomic_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstring>
#include <system_error>
#include <vector>

#include "longgen/base/error.h"

namespace longgen {

namespace {

// The number at the end of a leftover's name; 0 when it is none.
pid_t process_of(std::string_view name, std::string_view prefix) {
  if (!name.starts_with(prefix)) return 0;
  const std::string_view number = name.substr(prefix.size());
  pid_t pid = 0;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), pid);
  return error == std::errc() && end == number.data() + number.size() && pid > 0 ? pid : 0;
}

bool is_gone(pid_t pid) { return kill(pid, 0) != 0 && errno == ESRCH; }

}  // namespace

void remove_leftovers(const std::filesystem::path& directory, std::string_view prefix) {
  namespace fs = std::filesystem;
  std::error_code error;
  std::vector<fs::path> leftovers;
  for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    const pid_t pid = process_of(it->path().filename().string(), prefix);
    fs::path aside = it->path();
    aside += "-old";
    if (pid != 0 && is_gone(pid) && !fs::exists(aside, error)) leftovers.push_back(it->path());
  }
  for (const fs::path& path : leftovers) fs::remove_all(path, error);
}

void create_folders(const std::filesystem::path& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) fail("cannot create folder {}: {}", path.string(), error.message());
}

AtomicFile::AtomicFile(std::filesystem::path path) : path_(std::move(path)) {
  remove_leftovers(path_.has_parent_path() ? path_.parent_path() : ".",
                   path_.filename().string() + ".tmp-");
  temporary_ = path_;
  temporary_ += ".tmp-" + std::to_string(getpid());
  fd_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd_ < 0) fail("cannot write {}: {}", path_.string(), std::strerror(errno));
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) {
    close(fd_);
    unlink(temporary_.c_str());
  }
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) {
      fail("cannot write {}: {}; nothing was changed", path_.string(), std::strerror(errno));
    }
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

void AtomicFile::write(std::string_view text) {
  write(std::as_bytes(std::span(text.data(), text.size())));
}

void AtomicFile::commit() {
  if (fsync(fd_) != 0 || rename(temporary_.c_str(), path_.c_str()) != 0) {
    fail("cannot write {}: {}; nothing was changed", path_.string(), std::strerror(errno));
  }
  close(fd_);
  fd_ = -1;
  sync_directory(path_.has_parent_path() ? path_.parent_path() : ".");
}

void write_file_atomically(const std::filesystem::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

void sync_directory(const std::filesystem::path& directory) {
  const int fd = open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) fail("cannot open folder {}: {}", directory.string(), std::strerror(errno));
  fsync(fd);  // some file systems refuse it for folders; the rename has happened all the same
  close(fd);
}

DirectoryLock::DirectoryLock(const std::filesystem::path& directory)
    : path_(directory / ".longgen.lock") {
  fd_ = open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) fail("cannot lock folder {}: {}", directory.string(), std::strerror(errno));
  if (flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    char holder[32] = {};
    const ssize_t count = pread(fd_, holder, sizeof(holder) - 1, 0);
    close(fd_);
    fd_ = -1;
    fail("folder {} is in use by another run (process {}); wait for it or choose another folder",
         directory.string(), count > 0 ? holder : "unknown");
  }
  const std::string pid = std::to_string(getpid());
  if (ftruncate(fd_, 0) != 0 ||
      pwrite(fd_, pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size())) {
    const int reason = errno;
    close(fd_);
    fail("cannot lock folder {}: {}", directory.string(), std::strerror(reason));
  }
}

DirectoryLock::~DirectoryLock() {
  if (fd_ >= 0) {
    // The file is left: removing it would let a third run lock a new one while a second holds this.
    close(fd_);
  }
}

}  // namespace longgen
