// Text that a person hands to the program: a file, a pipe (`-`, `<(command)`), or what is typed.
#pragma once

#include <cstddef>
#include <string>

namespace longgen {

// Pipes and devices have no size and may never end (/dev/zero); a text from one has at most this.
inline constexpr size_t kMaxPipedBytes = size_t{1} << 30;

// Of a file: a quarter of the memory that is free, since its tokens lie beside it; at least 64 MB.
size_t max_text_bytes();

// Read from front to end, once.
class TextInput {
 public:
  // "-" is standard input. Throws Error for what cannot be opened, for a folder, and for a pipe
  // that nobody writes to within `patience_seconds`.
  explicit TextInput(const std::string& path, size_t max_piped_bytes = kMaxPipedBytes,
                     int patience_seconds = 10, size_t max_file_bytes = max_text_bytes());
  ~TextInput();
  TextInput(const TextInput&) = delete;
  TextInput& operator=(const TextInput&) = delete;

  // The path, or "stdin": for messages.
  const std::string& name() const { return name_; }
  // The next line without its end; false behind the last. Text behind the last line end is a line.
  // Throws Error when a line is longer than allowed, and when reading fails.
  bool next_line(std::string& line);
  // Whether the next line was read already: next_line() will not wait.
  bool has_line() const { return buffer_.find('\n', begin_) != std::string::npos; }
  // All that is left. Throws as next_line() does.
  std::string rest();

 private:
  bool fill();  // appends to buffer_; false at the end
  void wait_for_writer(int patience_seconds);

  std::string name_;
  size_t max_bytes_;  // that are held at a time
  bool is_file_ = false;
  int fd_ = -1;
  std::string buffer_;
  size_t begin_ = 0;  // what is before was handed out
};

}  // namespace longgen
