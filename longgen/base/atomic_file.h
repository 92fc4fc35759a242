// Files that appear whole or not at all: written aside in the same folder, fsynced, renamed.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace longgen {

// Removes files and folders in `directory` that are called `prefix` + the number of a process that
// no longer runs: what a killed writer left. Where a killed exchange left the folder that it moved
// aside too ("...-old"), nothing is touched: it may be somebody's only copy. Errors are ignored.
void remove_leftovers(const std::filesystem::path& directory, std::string_view prefix);

// The folder and those above it, where they are not there yet. Throws Error naming it.
void create_folders(const std::filesystem::path& path);

class AtomicFile {
 public:
  // Opens `path` + ".tmp-<pid>" for writing, after removing those of processes that are gone.
  // Throws Error naming the file.
  explicit AtomicFile(std::filesystem::path path);
  // Removes the temporary file unless commit() succeeded.
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  // Throws Error with the file and the system's reason (a full disk, say).
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  // Flushes to disk, renames over `path`, and flushes the folder.
  void commit();

 private:
  std::filesystem::path path_, temporary_;
  int fd_ = -1;
};

void write_file_atomically(const std::filesystem::path& path, std::string_view text);

// fsync of a folder, so that renames in it survive a crash.
void sync_directory(const std::filesystem::path& directory);

// Holds `directory`/.longgen.lock for as long as it lives (flock: freed when the process dies).
// Throws Error naming the folder and the holder's pid when another run has it.
class DirectoryLock {
 public:
  explicit DirectoryLock(const std::filesystem::path& directory);
  ~DirectoryLock();
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;

 private:
  std::filesystem::path path_;
  int fd_ = -1;
};

}  // namespace longgen
