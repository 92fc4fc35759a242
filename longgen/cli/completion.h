// Shell completion, made from the program's own command line.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace longgen::cli {

std::vector<std::string> completion_shells();
// A script for one of completion_shells() that completes commands, flags, their fixed values, and
// files elsewhere. `program` is the outermost App.
std::string completion_script(const CLI::App& program, const std::string& shell);

}  // namespace longgen::cli
