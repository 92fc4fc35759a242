// The whole program as a function, so that one command can run others just as a user would.
#pragma once

#include <span>
#include <string>

namespace longgen::cli {

inline constexpr int kFailure = 1, kUsage = 2;

// Runs `longgen ARGUMENTS...` and returns its exit code. Errors of the command are thrown; those of
// the command line are printed.
int run_program(std::span<const std::string> arguments);

}  // namespace longgen::cli
