// The scripts of `longgen completion`, used as bash uses them.
#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "tests/testing/program_test.h"

namespace longgen {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsSupersetOf;
using ::testing::Not;

class Completion : public testing::ProgramTest {
 protected:
  std::string script(const std::string& shell) const {
    const auto result = longgen({"completion", shell});
    EXPECT_EQ(result.code, 0) << result.err;
    return result.out;
  }

  // What bash offers for the last of `words`: what the function says, and files where it says
  // nothing, as `complete -o default` asks for.
  std::vector<std::string> offered(const std::vector<std::string>& words) const {
    std::ofstream(folder_ / "script") << script("bash");
    std::ofstream(folder_ / "a file.gguf");
    std::string line;
    for (const std::string& word : words) line += " '" + word + "'";
    const std::string commands =
        "cd \"$0\"; source ./script; complete -p longgen | grep -q -- '-o default' || exit 3\n"
        "COMP_WORDS=(" +
        line + "); COMP_CWORD=" + std::to_string(words.size() - 1) +
        "\n_longgen\n"
        "if ((${#COMPREPLY[@]})); then printf '%s\\n' \"${COMPREPLY[@]}\"\n"
        "else compgen -f -- '" +
        words.back() + "' || true; fi";
    const auto result =
        testing::run_program("/bin/bash", {"-c", commands, folder_.string()}, folder_);
    EXPECT_EQ(result.code, 0) << result.err;
    std::vector<std::string> lines;
    std::istringstream text(result.out);
    for (std::string each; std::getline(text, each);) lines.push_back(each);
    return lines;
  }
};

TEST_F(Completion, CompletesCommands) {
  if (!fs::exists("/bin/bash")) GTEST_SKIP() << "there is no bash";
  EXPECT_THAT(offered({"longgen", ""}), IsSupersetOf({"demo", "generate", "bench", "completion"}));
  EXPECT_THAT(offered({"longgen", "gen"}), ElementsAre("generate"));
  EXPECT_THAT(offered({"longgen", "bench", ""}),
              IsSupersetOf({"attention", "gemm", "prefill", "decode", "train"}));
  EXPECT_THAT(offered({"longgen", "--ver"}), ElementsAre("--version"));
}

TEST_F(Completion, CompletesFlagsOfTheCommandAndTheirFixedValues) {
  if (!fs::exists("/bin/bash")) GTEST_SKIP() << "there is no bash";
  const auto flags = offered({"longgen", "score", "model", "--"});
  EXPECT_THAT(flags, IsSupersetOf({"--text", "--max-tokens", "--threads", "--help"}));
  EXPECT_THAT(flags, Not(Contains("--hybrid")));
  EXPECT_THAT(offered({"longgen", "bench", "decode", "--dep"}), ElementsAre("--depths"));
  EXPECT_THAT(offered({"longgen", "bench", "gemm", "--shape", "smol"}),
              ElementsAre("smollm2-135m"));
  EXPECT_THAT(offered({"longgen", "completion", ""}), ElementsAre("bash", "zsh", "fish"));
}

TEST_F(Completion, CompletesFilesWhereFilesBelong) {
  if (!fs::exists("/bin/bash")) GTEST_SKIP() << "there is no bash";
  EXPECT_THAT(offered({"longgen", "inspect", "a"}), ElementsAre("a file.gguf"));
  EXPECT_THAT(offered({"longgen", "score", "model", "--text", ""}), Contains("a file.gguf"));
}

// The other shells are not installed everywhere: their scripts are checked for what they must hold.
TEST_F(Completion, OtherShellsGetTheSameWords) {
  for (const char* shell : {"zsh", "fish"}) {
    const std::string text = script(shell);
    for (const char* word : {"bench", "attention", "smollm2-135m", "depths"}) {
      EXPECT_NE(text.find(word), std::string::npos) << shell << " " << word;
    }
    const std::string program = std::string("/usr/bin/") + shell;
    if (!fs::exists(program)) continue;
    std::ofstream(folder_ / "script") << text;
    const auto parsed =
        testing::run_program(program, {"-n", (folder_ / "script").string()}, folder_);
    EXPECT_EQ(parsed.code, 0) << shell << parsed.err;
  }
  EXPECT_EQ(testing::run_program(LONGGEN_PROGRAM, {"completion", "tcsh"}, folder_).code, 2);
}

}  // namespace
}  // namespace longgen
