// The program under every instruction set of this machine, forced by LONGGEN_CPU as a user does it.
#include <gmock/gmock.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/testing/program_test.h"

namespace longgen {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::HasSubstr;
using testing::ProgramResult;

class InstructionSets : public testing::ProgramTest {
 protected:
  InstructionSets() {
    std::ofstream text(folder_ / "text.txt");
    for (int i = 0; i < 300; ++i) text << "Ship " << i % 7 << " sailed on day " << i % 31 << ". ";
  }
  ~InstructionSets() override { unsetenv("LONGGEN_CPU"); }

  // "in use" of --version under every name that this machine has.
  std::vector<std::string> here() const {
    std::vector<std::string> names;
    for (const char* name : {"portable", "avx2", "avx512", "avx512bf16", "amx"}) {
      setenv("LONGGEN_CPU", name, 1);
      const ProgramResult version = longgen({"--version"});
      EXPECT_EQ(version.code, 0) << version.err;
      if (version.out.find(std::string("in use ") + name + "\n") != std::string::npos) {
        names.emplace_back(name);
      }
    }
    return names;
  }

  struct Run {
    std::vector<double> losses;  // of the training steps
    std::string weights;         // model.safetensors
    double nll = 0;              // of the text under the trained model
    std::string continuation;
  };

  Run run(const std::string& out) const {
    Run result;
    const ProgramResult trained = longgen({"train",
                                           "--data.paths",
                                           path("text.txt"),
                                           "--output",
                                           path(out),
                                           "--model.hidden_size",
                                           "64",
                                           "--model.num_layers",
                                           "2",
                                           "--model.num_heads",
                                           "2",
                                           "--model.block_size",
                                           "16",
                                           "--train.length",
                                           "128",
                                           "--train.steps",
                                           "12",
                                           "--train.batch_tokens",
                                           "256",
                                           "--dtype",
                                           "f32",
                                           "--threads",
                                           "2",
                                           "-q"});
    EXPECT_EQ(trained.code, 0) << trained.err;
    std::istringstream lines(read_text_file(path(out + "/metrics.jsonl")));
    for (std::string line; std::getline(lines, line);) {
      const json row = json::parse(line);
      if (row["kind"] == "train") result.losses.push_back(row["loss"]);
    }
    result.weights = read_text_file(path(out + "/model.safetensors"));
    const ProgramResult score =
        longgen({"score", path(out), "--text", path("text.txt"), "--max-tokens", "128", "--json",
                 "--dtype", "f32", "--threads", "2", "-q"});
    EXPECT_EQ(score.code, 0) << score.err;
    result.nll = std::log(json::parse(score.out)["perplexity"].get<double>());
    const ProgramResult text = longgen({"generate", path(out), "-p", "Ship 3 sailed", "-n", "16",
                                        "--ignore-eos", "--threads", "2", "-q"});
    EXPECT_EQ(text.code, 0) << text.err;
    result.continuation = text.out;
    return result;
  }
};

TEST_F(InstructionSets, EachRepeatsItsBitsAndAllAgree) {
  const std::vector<std::string> names = here();
  ASSERT_GE(names.size(), 1u);
  ASSERT_EQ(names[0], "portable");
  Run first;
  for (const std::string& name : names) {
    SCOPED_TRACE(name);
    setenv("LONGGEN_CPU", name.c_str(), 1);
    const Run once = run(name), again = run(name + "-again");
    ASSERT_EQ(once.losses.size(), 12u);
    EXPECT_LT(once.losses.back(), once.losses.front() - 0.1) << "it does not learn";
    EXPECT_EQ(once.losses, again.losses);
    EXPECT_TRUE(once.weights == again.weights) << "other bits from the same command";
    EXPECT_EQ(once.nll, again.nll);
    EXPECT_EQ(once.continuation, again.continuation);
    if (name == "portable") first = once;
    // Sums of fp32 in another order differ by about 1e-6 of themselves; twelve steps of training
    // carry that on, and not by a hundred times.
    for (size_t i = 0; i < first.losses.size(); ++i) {
      EXPECT_NEAR(once.losses[i], first.losses[i], 1e-4 * first.losses[i]) << "step " << i;
    }
    EXPECT_NEAR(once.nll, first.nll, 1e-4 * first.nll);
  }
}

TEST_F(InstructionSets, AnUnknownOneIsAnErrorWithTheNames) {
  for (const char* name : {"sse9", "AVX2"}) {
    setenv("LONGGEN_CPU", name, 1);
    const ProgramResult result = longgen({"bench", "gemm", "--size", "8x8x8"});
    EXPECT_EQ(result.code, 2);
    EXPECT_THAT(result.err, HasSubstr(name));
    EXPECT_THAT(result.err, HasSubstr("portable, avx2, avx512, avx512bf16, amx"));
  }
}

}  // namespace
}  // namespace longgen
