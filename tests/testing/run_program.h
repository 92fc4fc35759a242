// Runs `longgen` to its end, as a user does.
#pragma once

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "longgen/base/mapped_file.h"

namespace longgen::testing {

struct ProgramResult {
  int code = 0;  // minus the signal when one ended it
  std::string out, err;
  int64_t peak_resident_bytes = 0;  // from the system
};

// stdout and stderr go to files in `folder`. `meanwhile` is called with the process id once it
// runs.
inline ProgramResult run_program(const std::string& program,
                                 const std::vector<std::string>& arguments,
                                 const std::filesystem::path& folder,
                                 const std::function<void(pid_t)>& meanwhile = {}) {
  const std::string out = (folder / "stdout").string(), err = (folder / "stderr").string();
  std::vector<char*> argv = {const_cast<char*>(program.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const pid_t pid = fork();
  if (pid == 0) {
    dup2(::open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), STDOUT_FILENO);
    dup2(::open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), STDERR_FILENO);
    execv(program.c_str(), argv.data());
    _exit(127);
  }
  if (meanwhile) meanwhile(pid);
  int status = 0;
  rusage usage{};
  wait4(pid, &status, 0, &usage);
  ProgramResult result;
  result.code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  result.out = read_text_file(out);
  result.err = read_text_file(err);
  result.peak_resident_bytes = int64_t{1024} * usage.ru_maxrss;
  return result;
}

}  // namespace longgen::testing
