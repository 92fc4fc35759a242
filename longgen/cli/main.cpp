#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "longgen/base/error.h"
#include "longgen/cli/program.h"

namespace {

constexpr const char* kNotWritten = "cannot write to standard output (is the disk full?)";

// A program may be started with standard streams closed. Files that it opens must not take their
// numbers, or messages would land in them. What is written to a closed output still fails.
void occupy_standard_streams() {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
    if (fcntl(fd, F_GETFD) >= 0) continue;
    (void)!open("/dev/null", fd == STDERR_FILENO ? O_WRONLY : O_RDONLY);  // takes the lowest free
  }
}

}  // namespace

int main(int argc, char** argv) {
  using namespace longgen;
  occupy_standard_streams();
  // A file beyond the limit of the shell is a failed write, which is named, and no silent death.
  std::signal(SIGXFSZ, SIG_IGN);
  try {
    const std::vector<std::string> arguments(argv + 1, argv + argc);
    const int code = cli::run_program(arguments);
    // Whatever was printed and did not arrive is an error.
    require(std::fflush(stdout) == 0 && std::ferror(stdout) == 0, "{}", kNotWritten);
    return code;
  } catch (const UsageError& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return cli::kUsage;
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "error: out of memory\n");
  } catch (const std::exception& error) {
    // What fmt::print throws names no file.
    std::fprintf(stderr, "error: %s\n", std::ferror(stdout) != 0 ? kNotWritten : error.what());
  }
  return cli::kFailure;
}
