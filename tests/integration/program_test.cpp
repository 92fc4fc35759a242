// What all commands share: help, wrong command lines, output that does not arrive.
#include <gmock/gmock.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "tests/testing/run_program.h"

namespace longgen {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::ProgramResult;

class Program : public ::testing::Test {
 protected:
  Program() {
    std::string name = (fs::temp_directory_path() / "longgen-program-XXXXXX").string();
    folder_ = mkdtemp(name.data());
  }
  ~Program() override { fs::remove_all(folder_); }
  ProgramResult longgen(const std::vector<std::string>& arguments) const {
    return testing::run_program(LONGGEN_PROGRAM, arguments, folder_);
  }

  fs::path folder_;
};

TEST_F(Program, WithoutArgumentsItShowsHelp) {
  const auto result = longgen({});
  EXPECT_EQ(result.code, 2);
  EXPECT_EQ(result.out, "");
  EXPECT_EQ(result.err, longgen({"--help"}).out);
  EXPECT_EQ(longgen({"--version"}).code, 0);
}

TEST_F(Program, WrongCommandLinesAreNamedInTwoLines) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"bogus"}, "error: unknown command bogus\nRun longgen --help"},
      {{"--bogus"}, "error: unknown option --bogus\nRun longgen --help"},
      {{"inspect", "--bogus"}, "error: unknown option --bogus\nRun longgen inspect --help"},
      {{"score", "model", "extra"}, "error: unknown argument extra\nRun longgen score --help"},
      {{"generate"}, "error: model is required\nRun longgen generate --help"}};
  for (const auto& [arguments, message] : cases) {
    const auto result = longgen(arguments);
    EXPECT_EQ(result.code, 2) << message;
    EXPECT_EQ(result.err, message + " for what is possible.\n");
  }
}

TEST_F(Program, EveryCommandHasHelpWithAnExample) {
  for (const char* command :
       {"demo", "inspect", "convert", "tokenize", "score", "train", "extend", "generate", "eval"}) {
    const auto result = longgen({command, "--help"});
    EXPECT_EQ(result.code, 0) << command;
    EXPECT_THAT(result.out, HasSubstr(std::string("Example:\n  ")));
    EXPECT_THAT(result.out, HasSubstr(std::string("longgen ") + command + " "));
  }
}

TEST_F(Program, OutputThatDoesNotArriveIsAnError) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "there is no /dev/full";
  const std::string model = std::string(LONGGEN_SOURCE_DIR) + "/demo/model";
  const std::vector<std::vector<std::string>> commands = {
      {"--help"},
      {"inspect", model},
      {"inspect", model, "--json"},
      {"tokenize", model, model + "/config.json"},
      {"score", model, "--text", model + "/config.json", "--json"},
      {"generate", model, "-p", "It was", "-n", "4", "--ignore-eos"},
      {"generate", model, "-p", "It was", "-n", "4", "--json"}};
  for (const auto& command : commands) {
    std::vector<std::string> arguments = {"-c", "exec \"$0\" \"$@\" > /dev/full", LONGGEN_PROGRAM};
    arguments.insert(arguments.end(), command.begin(), command.end());
    const auto result = testing::run_program("/bin/sh", arguments, folder_);
    EXPECT_EQ(result.code, 1) << command[0];
    EXPECT_THAT(result.err, HasSubstr("cannot write to")) << command[0];
  }
}

}  // namespace
}  // namespace longgen
