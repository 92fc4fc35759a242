// Files that live in memory but have a path, for readers that take one.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>

namespace longgen::fuzz {

class MemoryFile {
 public:
  explicit MemoryFile(std::string_view bytes);
  ~MemoryFile();
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  int fd_ = -1;
  std::filesystem::path path_;
};

// A folder in memory (/dev/shm) that goes away with the object.
class MemoryFolder {
 public:
  MemoryFolder();
  ~MemoryFolder();
  MemoryFolder(const MemoryFolder&) = delete;
  MemoryFolder& operator=(const MemoryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  // Writes a file whole; its folder is made. What was written last is not written again: most files
  // of an input are those of the one before.
  void write(const std::string& name, std::string_view bytes) const;
  void remove(const std::string& name) const;

 private:
  std::filesystem::path path_;
  mutable std::map<std::string, std::string, std::less<>> there_;
};

}  // namespace longgen::fuzz
