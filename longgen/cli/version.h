// What `longgen --version` says.
#pragma once

#include <string>

namespace longgen::cli {

// "longgen VERSION (commit ...)".
std::string version_line();
// The version and commit, the compiler and build type, instruction sets compiled and in use, the
// devices of this machine, the libraries' versions. Several lines, the first "longgen VERSION ...".
std::string version_text();

}  // namespace longgen::cli
