#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "longgen/base/error.h"
#include "longgen/cli/program.h"

int main(int argc, char** argv) {
  using namespace longgen;
  try {
    const std::vector<std::string> arguments(argv + 1, argv + argc);
    const int code = cli::run_program(arguments);
    // Whatever was printed and did not arrive is an error.
    require(std::fflush(stdout) == 0 && std::ferror(stdout) == 0,
            "cannot write to standard output (is the disk full?)");
    return code;
  } catch (const UsageError& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return cli::kUsage;
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "error: out of memory\n");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
  }
  return cli::kFailure;
}
