#include "longgen/cli/line_reader.h"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "longgen/base/error.h"
#include "longgen/base/interrupt.h"

namespace longgen::cli {

bool LineReader::is_terminal() const { return isatty(STDIN_FILENO) != 0; }

LineReader::Result LineReader::next(const std::string& prompt, std::string& line) {
  const InterruptGuard interrupt;
  if (is_terminal()) {
    fmt::print(stderr, "{}", prompt);
    std::fflush(stderr);
  }
  while (true) {
    if (const size_t end = pending_.find('\n'); end != std::string::npos) {
      line = pending_.substr(0, end);
      pending_.erase(0, end + 1);
      if (line.ends_with('\r')) line.pop_back();
      return Result::kLine;
    }
    if (ended_) {
      line = std::exchange(pending_, "");
      return line.empty() ? Result::kEnd : Result::kLine;
    }
    // poll() returns for a signal, whatever its handler asks for; read() would go on waiting.
    pollfd input{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
    if (interrupt.requested()) return Result::kInterrupted;
    if (poll(&input, 1, 200) <= 0) continue;  // a signal just before is seen after the wait
    char buffer[65536];
    const ssize_t count = ::read(STDIN_FILENO, buffer, sizeof(buffer));
    if (count < 0 && errno == EINTR) continue;
    require(count >= 0, "cannot read standard input: {}", std::strerror(errno));
    ended_ = count == 0;
    pending_.append(buffer, static_cast<size_t>(count));
  }
}

}  // namespace longgen::cli
