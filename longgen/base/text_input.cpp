#include "longgen/base/text_input.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "longgen/base/error.h"
#include "longgen/base/system.h"

namespace longgen {
namespace {

constexpr size_t kReadBytes = size_t{1} << 16;

}  // namespace

size_t max_text_bytes() {
  constexpr int64_t kLeast = int64_t{64} << 20;
  return static_cast<size_t>(std::max(available_memory_bytes() / 4, kLeast));
}

TextInput::TextInput(const std::string& path, size_t max_piped_bytes, int patience_seconds,
                     size_t max_file_bytes)
    : name_(path == "-" ? "stdin" : path), max_bytes_(max_piped_bytes) {
  if (path == "-") {
    fd_ = STDIN_FILENO;
    return;
  }
  // With O_NONBLOCK a pipe that nobody writes to opens at once instead of holding the program.
  fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd_ < 0) fail("cannot open {}: {}", path, std::strerror(errno));
  struct stat status {};
  const bool known = fstat(fd_, &status) == 0;
  if (known && S_ISFIFO(status.st_mode)) {
    wait_for_writer(patience_seconds);
  } else if (known && S_ISREG(status.st_mode)) {
    max_bytes_ = max_file_bytes;
    is_file_ = true;
  } else if (!known || !S_ISCHR(status.st_mode)) {
    close(fd_);
    fail("{} is {}, which holds no text", path,
         known && S_ISDIR(status.st_mode) ? "a folder" : "a socket or a device");
  }
}

TextInput::~TextInput() {
  if (fd_ != STDIN_FILENO) close(fd_);
}

// A first read tells whether somebody holds the other end: it would block, or brings bytes.
void TextInput::wait_for_writer(int patience_seconds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(patience_seconds);
  char first[kReadBytes];
  while (true) {
    const ssize_t count = ::read(fd_, first, sizeof(first));
    if (count > 0) buffer_.assign(first, static_cast<size_t>(count));
    if (count > 0 || (count < 0 && errno == EAGAIN)) return;
    pollfd pipe{.fd = fd_, .events = POLLIN, .revents = 0};
    // A writer that came and went has left an empty text.
    if (poll(&pipe, 1, 0) > 0 && (pipe.revents & POLLHUP) != 0) return;
    if (std::chrono::steady_clock::now() >= end) {
      close(fd_);
      fail("nobody writes to the pipe {}; start the program that does before this one", name_);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

bool TextInput::fill() {
  buffer_.erase(0, begin_);
  begin_ = 0;
  if (buffer_.size() > max_bytes_) {
    fail("{}: a text of more than {} bytes{}", name_, max_bytes_,
         is_file_ ? ", for which there is too little memory; cut it into pieces"
                  : "; does it ever end? Files may be longer");
  }
  const size_t before = buffer_.size();
  buffer_.resize(before + kReadBytes);
  while (true) {
    const ssize_t count = ::read(fd_, buffer_.data() + before, kReadBytes);
    if (count >= 0) {
      buffer_.resize(before + static_cast<size_t>(count));
      return count > 0;
    }
    const int reason = errno;
    if (reason == EINTR) continue;
    if (reason == EAGAIN) {
      pollfd input{.fd = fd_, .events = POLLIN, .revents = 0};
      poll(&input, 1, -1);
      continue;
    }
    buffer_.resize(before);
    fail("cannot read {}: {}", name_, std::strerror(reason));
  }
}

bool TextInput::next_line(std::string& line) {
  size_t searched = begin_;
  while (true) {
    const size_t end = buffer_.find('\n', searched);
    if (end != std::string::npos) {
      line.assign(buffer_, begin_, end - begin_);
      begin_ = end + 1;
      return true;
    }
    searched = buffer_.size() - begin_;  // where fill() puts what comes
    if (!fill()) break;
  }
  if (buffer_.empty()) return false;
  line = std::move(buffer_);
  buffer_.clear();
  return true;
}

std::string TextInput::rest() {
  while (fill()) {
  }
  std::string text = std::move(buffer_);
  buffer_.clear();
  return text;
}

}  // namespace longgen
