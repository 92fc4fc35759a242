// What all commands share: help, wrong command lines, output that does not arrive.
#include <gmock/gmock.h>

#include <filesystem>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "tests/testing/program_test.h"

namespace longgen {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::ProgramResult;

class Program : public testing::ProgramTest {
 protected:
  std::vector<std::vector<std::string>> all_commands(std::vector<std::string> at) const;
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
      {{"generate", "m", "-n", "1", "-n", "2"},
       "error: --max-new-tokens is given 2 times; once is enough\nRun longgen generate --help"},
      {{"generate"}, "error: model is required\nRun longgen generate --help"},
      {{"bench"},
       "error: name one of: attention, gemm, prefill, decode, train\nRun longgen bench --help"}};
  for (const auto& [arguments, message] : cases) {
    const auto result = longgen(arguments);
    EXPECT_EQ(result.code, 2) << message;
    EXPECT_EQ(result.err, message + " for what is possible.\n");
  }
}

// What a script's unset variable leaves is neither 0 nor the current folder.
TEST_F(Program, EmptyValuesAreErrors) {
  const std::vector<std::vector<std::string>> cases = {
      {"generate", "m", "-p", "x", "--temperature"},
      {"generate", "m", "-p", "x", "-n"},
      {"convert", "m", "-o"},
      {"convert", "m", "-o", "x", "--rope-theta"},
      {"extend", "m", "--data"},
      {"train", "-o"},
      {"eval", "m", "-o"},
      {"demo", "-o"},
      {"tokenize"},
      {"tokenize", "m"},
      {"score", "m", "--text"}};
  for (std::vector<std::string> arguments : cases) {
    arguments.insert(arguments.begin(), "--check");
    arguments.emplace_back();
    const auto result = longgen(arguments);
    EXPECT_EQ(result.code, 2) << arguments[1];
    EXPECT_THAT(result.err, HasSubstr("the value is empty")) << arguments[1];
  }
  EXPECT_EQ(longgen({"--check", "generate", "m", "-p", ""}).code, 0) << "a text may be empty";
}

TEST_F(Program, SeedsAreWholeNumbersOf64Bits) {
  for (const std::string seed : {"-1", "99999999999999999999", "", "1.5", "x"}) {
    const auto result = longgen({"--check", "demo", "--seed", seed});
    EXPECT_EQ(result.code, 2) << seed;
    EXPECT_THAT(result.err, HasSubstr("a seed is a whole number from 0 to 2^64 - 1")) << seed;
  }
  EXPECT_EQ(longgen({"--check", "demo", "--seed", "18446744073709551615"}).code, 0);
}

// "longgen", "longgen demo", ..., "longgen bench", "longgen bench attention": whatever --help
// lists.
std::vector<std::vector<std::string>> Program::all_commands(std::vector<std::string> at) const {
  std::vector<std::vector<std::string>> commands = {at};
  auto arguments = at;
  arguments.emplace_back("--help");
  std::istringstream help(longgen(arguments).out);
  bool listing = false;
  for (std::string line; std::getline(help, line);) {
    if (line.empty() || line == "Subcommands:") listing = !line.empty();
    if (!listing || !line.starts_with("  ") || line[2] == ' ') continue;
    auto below = at;
    below.push_back(line.substr(2, line.find(' ', 2) - 2));
    const auto all = all_commands(below);
    commands.insert(commands.end(), all.begin(), all.end());
  }
  return commands;
}

TEST_F(Program, EveryCommandHasHelpWithAnExampleThatParses) {
  const auto commands = all_commands({});
  EXPECT_GE(commands.size(), 16u);
  for (const auto& command : commands) {
    if (command.empty()) continue;
    auto arguments = command;
    arguments.emplace_back("--help");
    const auto result = longgen(arguments);
    const std::string name = "longgen " + ::testing::PrintToString(command);
    EXPECT_EQ(result.code, 0) << name;
    const size_t example = result.out.find("Example:\n  ");
    ASSERT_NE(example, std::string::npos) << name << result.out;
    // As a shell reads it, in the source tree (recipes are there); --check parses it and stops.
    const std::string text = result.out.substr(example + std::string("Example:\n").size());
    EXPECT_THAT(text, HasSubstr("longgen " + command[0] + " "));
    EXPECT_EQ(text.find(" > "), std::string::npos) << "examples write no files: " << text;
    const std::string script =
        "longgen() { \"" LONGGEN_PROGRAM "\" --check \"$@\"; }\ncd \"$0\"\n" + text;
    const auto parsed =
        testing::run_program("/bin/sh", {"-c", script, LONGGEN_SOURCE_DIR}, folder_);
    EXPECT_EQ(parsed.code, 0) << script << parsed.err;
  }
}

// Into a pipe; a terminal's own width is taken where there is one.
TEST_F(Program, HelpFitsIntoEightyColumns) {
  for (const auto& command : all_commands({})) {
    auto arguments = command;
    arguments.emplace_back("--help");
    std::istringstream help(longgen(arguments).out);
    for (std::string line; std::getline(help, line);) EXPECT_LE(line.size(), 80u) << line;
  }
}

TEST_F(Program, TheDemoDoesNotPassOverADevice) {
  const auto result = longgen({"demo", "--device", "cuda", "-o", "nothing"});
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr("demo runs on the CPU"));
}

TEST_F(Program, HelpOfExtendShowsItsOwnDefaults) {
  const auto extend = longgen({"extend", "--help"}).out, train = longgen({"train", "--help"}).out;
  EXPECT_THAT(train, HasSubstr("Tokens of a sequence [1024]"));
  EXPECT_THAT(extend, HasSubstr("Tokens of a sequence [must be given]"));
  EXPECT_THAT(extend, HasSubstr("Learning rate after warm-up [by the model's size]"));
  EXPECT_THAT(train, HasSubstr("--model.num_layers"));
  EXPECT_THAT(extend, ::testing::Not(HasSubstr("--model.num_layers")));
}

TEST_F(Program, CheckRefusesWhatDoesNotParse) {
  EXPECT_EQ(longgen({"--check", "tokenize", "/nonexistent"}).code, 0);
  EXPECT_EQ(longgen({"--check", "tokenize", "/nonexistent", "--bogus"}).code, 2);
}

TEST_F(Program, VersionNamesBuildInstructionSetsDevicesAndLibraries) {
  const auto result = longgen({"--version"});
  EXPECT_EQ(result.code, 0);
  EXPECT_THAT(result.out, ::testing::MatchesRegex("longgen [0-9]+\\.[0-9]+\\.[0-9]+ \\(commit .*"));
  for (const char* word :
       {"compiler ", "instruction sets ", "portable", "in use ", "device cpu ", "device cuda ",
        "threads", "libraries ", "CLI11 ", "fmt ", "PCRE2 ", "sentencepiece "}) {
    EXPECT_THAT(result.out, HasSubstr(word));
  }
}

TEST_F(Program, OutputThatDoesNotArriveIsAnError) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "there is no /dev/full";
  const std::string model = std::string(LONGGEN_SOURCE_DIR) + "/demo/model";
  const std::vector<std::vector<std::string>> commands = {
      {"--help"},
      {"inspect", model},
      {"inspect", model, "--json"},
      {"completion", "bash"},  // more than a buffer
      {"tokenize", model, model + "/config.json"},
      {"score", model, "--text", model + "/config.json", "--json"},
      {"generate", model, "-p", "It was", "-n", "4", "--ignore-eos"},
      {"generate", model, "-p", "It was", "-n", "4", "--json"}};
  for (const auto& command : commands) {
    std::vector<std::string> arguments = {"-c", "exec \"$0\" \"$@\" > /dev/full", LONGGEN_PROGRAM};
    arguments.insert(arguments.end(), command.begin(), command.end());
    const auto result = testing::run_program("/bin/sh", arguments, folder_);
    EXPECT_EQ(result.code, 1) << command[0];
    EXPECT_THAT(result.err, HasSubstr("cannot write to standard output")) << command[0];
  }
}

// A file that is opened while standard error is closed takes its number: messages must not land in
// it.
TEST_F(Program, ClosedStreamsDoNotReachTheFilesItWrites) {
  const std::string model = std::string(LONGGEN_SOURCE_DIR) + "/demo/model";
  const fs::path whole = folder_ / "whole", closed = folder_ / "closed";
  ASSERT_EQ(longgen({"convert", model, "-o", whole.string()}).code, 0);
  const auto result =
      testing::run_program("/bin/sh",
                           {"-c", "exec \"$0\" \"$@\" <&- >&- 2>&-", LONGGEN_PROGRAM, "convert",
                            model, "-o", closed.string(), "-v"},
                           folder_);
  EXPECT_EQ(result.code, 0);
  size_t files = 0;
  for (const auto& entry : fs::directory_iterator(whole)) {
    EXPECT_TRUE(read_text_file(entry.path()) == read_text_file(closed / entry.path().filename()))
        << entry.path();
    ++files;
  }
  EXPECT_GE(files, 3u);
}

TEST_F(Program, ALimitOfFileSizesIsToldAndLeavesNothing) {
  const std::string model = std::string(LONGGEN_SOURCE_DIR) + "/demo/model";
  const fs::path out = folder_ / "out" / "model";
  fs::create_directories(out.parent_path());
  // Blocks of 512 or 1024 bytes; the weights take 2.5 MB.
  const auto result =
      testing::run_program("/bin/sh",
                           {"-c", "ulimit -f 100; exec \"$0\" \"$@\"", LONGGEN_PROGRAM, "convert",
                            model, "-o", out.string(), "-q"},
                           folder_);
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.err, HasSubstr("File too large"));
  EXPECT_TRUE(fs::is_empty(out.parent_path()));
}

}  // namespace
}  // namespace longgen
