// Tests of the program, in a folder of their own.
#pragma once

#include <gtest/gtest.h>

#include "tests/testing/run_program.h"
#include "tests/testing/scratch_folder.h"

namespace longgen::testing {

class ProgramTest : public ::testing::Test {
 protected:
  ProgramResult longgen(const std::vector<std::string>& arguments,
                        const std::function<void(pid_t)>& meanwhile = {}) const {
    return run_program(LONGGEN_PROGRAM, arguments, folder_, meanwhile);
  }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  const ScratchFolder scratch_;
  const std::filesystem::path folder_ = scratch_.path();
};

}  // namespace longgen::testing
