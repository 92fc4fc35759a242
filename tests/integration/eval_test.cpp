// `longgen eval`, `generate` and `score` as a user runs them, on a tiny untrained model of bytes.
#include <gmock/gmock.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "longgen/base/atomic_file.h"
#include "tests/testing/run_program.h"

namespace longgen {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::ProgramResult;

class EvalProgram : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    std::string name = (fs::temp_directory_path() / "longgen-eval-XXXXXX").string();
    folder_ = mkdtemp(name.data());
    std::string text;
    for (int i = 0; i < 400; ++i)
      text += "The captain of ship " + std::to_string(i % 7) + " slept. ";
    write("text/story.txt", text);
    write("empty/nothing.txt", " \n");
    write("recipe.toml",
          "[model]\nhidden_size = 32\nnum_layers = 3\nnum_heads = 2\nblock_size = 16\n"
          "[data]\npaths = [\"" +
              path("text") +
              "\"]\nmax_document_tokens = 160\n"
              "[train]\nlength = 128\nbatch_tokens = 128\nsteps = 1\n");
    const auto trained = longgen({"train", "--config", path("recipe.toml"), "-o", path("run")});
    ASSERT_EQ(trained.code, 0) << trained.err;
    // The run's model, wherever the run keeps it.
    for (const auto& entry : fs::recursive_directory_iterator(folder_ / "run")) {
      if (entry.path().filename() == "config.json") plain_ = entry.path().parent_path().string();
    }
    ASSERT_FALSE(plain_.empty());
    const auto converted = longgen({"convert", plain_, "-o", path("hybrid"), "--hybrid",
                                    "full=middle:1 sparse=local:4,sink:1,block:16"});
    ASSERT_EQ(converted.code, 0) << converted.err;
    model_ = path("hybrid");
  }
  static void TearDownTestSuite() { fs::remove_all(folder_); }

  static std::string path(const std::string& name) { return (folder_ / name).string(); }
  static void write(const std::string& name, std::string_view text) {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }
  static ProgramResult longgen(std::vector<std::string> arguments,
                               const std::function<void(pid_t)>& meanwhile = {}) {
    arguments.insert(arguments.end(), {"--threads", "1"});
    return testing::run_program(LONGGEN_PROGRAM, arguments, folder_, meanwhile);
  }
  static ProgramResult eval(const std::string& tasks, std::vector<std::string> more,
                            const std::function<void(pid_t)>& meanwhile = {}) {
    more.insert(more.begin(), {"eval", model_, "--tasks", tasks});
    return longgen(std::move(more), meanwhile);
  }
  static void expect_error(const ProgramResult& result, int code,
                           const std::vector<std::string>& words) {
    EXPECT_EQ(result.code, code) << result.err;
    EXPECT_EQ(result.out, "");
    for (const std::string& word : words) EXPECT_THAT(result.err, HasSubstr(word));
  }

  static inline fs::path folder_;
  static inline std::string plain_, model_;
};

TEST_F(EvalProgram, WritesTablesJsonAndSamples) {
  const std::vector<std::string> options = {
      "--lengths",  "512,700", "--samples",  "5",  "--passkey-form", "statement", "--haystack",
      path("text"), "--text",  path("text"), "-o", path("results")};
  const ProgramResult table = eval("passkey,needle,perplexity", options);
  ASSERT_EQ(table.code, 0) << table.err;
  EXPECT_THAT(table.out, AllOf(HasSubstr("passkey (statement)"), HasSubstr("needle (number)"),
                               HasSubstr("outside it"), HasSubstr("256 to 511")));
  const json results = json::parse(read_text_file(path("results/results.json")));
  EXPECT_EQ(results["complete"], true);
  for (const char* task : {"passkey", "needle"}) {
    const json& lengths = results["results"][task]["lengths"];
    ASSERT_EQ(lengths.size(), 2u);
    for (const json& length : lengths) {
      EXPECT_EQ(length["samples"], 5);
      EXPECT_EQ(length["inside"]["samples"].get<int>() + length["outside"]["samples"].get<int>(),
                5);
      EXPECT_GT(length["outside"]["samples"], 0);
      EXPECT_EQ(length["depths"].size(), 5u);
    }
  }
  EXPECT_EQ(results["results"]["perplexity"]["bins"].size(), 3u);
  EXPECT_GT(results["results"]["perplexity"]["overall"]["perplexity"], 1);
  std::istringstream samples(read_text_file(path("results/samples.jsonl")));
  int lines = 0;
  for (std::string line; std::getline(samples, line); ++lines) {
    EXPECT_LE(json::parse(line)["prompt_tokens"], json::parse(line)["length"]);
  }
  EXPECT_EQ(lines, 20);

  // The page says the same, and a command that repeats it.
  const std::string page = read_text_file(path("results/report.html"));
  EXPECT_THAT(page, AllOf(HasSubstr("<h1>hybrid</h1>"), HasSubstr("passkey: found, by length"),
                          HasSubstr("Perplexity by position"), HasSubstr("story.txt")));
  EXPECT_THAT(page, HasSubstr("0 local:4,sink:1,block:16, 1 full"));
  const std::string& command = results["command"].get_ref<const std::string&>();
  EXPECT_THAT(page, HasSubstr(command));
  std::vector<std::string> words;
  std::istringstream split(command);
  for (std::string word; split >> word;) words.push_back(word);
  ASSERT_EQ(words[0], "longgen");
  words.erase(words.begin());
  words.back() = path("repeated");  // -o
  const ProgramResult repeated = testing::run_program(LONGGEN_PROGRAM, words, folder_);
  ASSERT_EQ(repeated.code, 0) << repeated.err << command;
  EXPECT_EQ(read_text_file(path("repeated/samples.jsonl")),
            read_text_file(path("results/samples.jsonl")));
  for (const auto& entry : fs::directory_iterator(folder_ / "results")) {
    EXPECT_THAT(entry.path().filename().string(), ::testing::Not(HasSubstr("tmp")));
  }

  std::vector<std::string> as_json = options;
  as_json.push_back("--json");
  const ProgramResult again = eval("passkey,needle,perplexity", as_json);
  ASSERT_EQ(again.code, 0) << again.err;
  // The same but for the times.
  json first = results["results"], second = json::parse(again.out)["results"];
  for (json* j : {&first, &second}) {
    for (const char* task : {"passkey", "needle"}) {
      for (json& length : (*j)[task]["lengths"]) length.erase("run");
    }
    (*j)["perplexity"].erase("run");
  }
  EXPECT_EQ(first, second);
}

TEST_F(EvalProgram, CountsAnAllFullModelByTheHybridBesideIt) {
  const auto run = [](const std::string& model, std::vector<std::string> more) {
    more.insert(more.begin(), {"eval", model, "--tasks", "passkey,short-text", "--lengths", "600",
                               "--samples", "6", "--text", path("text"), "--json", "-q"});
    const ProgramResult result = longgen(std::move(more));
    EXPECT_EQ(result.code, 0) << result.err;
    return json::parse(result.out)["results"];
  };
  const json hybrid = run(model_, {}), plain = run(plain_, {});
  const json counted = run(plain_, {"--outside", "full=middle:1 sparse=local:4,sink:1,block:16"});
  const auto outside = [](const json& results) {
    return results["passkey"]["lengths"][0]["outside"]["samples"];
  };
  EXPECT_GT(outside(hybrid), 0);
  EXPECT_EQ(outside(plain), 0);
  EXPECT_EQ(outside(counted), outside(hybrid));
  EXPECT_GT(plain["short-text"]["nll"], 0);
  EXPECT_GT(plain["short-text"]["windows"], 10);
  EXPECT_EQ(plain["short-text"], counted["short-text"]);
}

TEST_F(EvalProgram, RefusesBadRequestsWithWhatIsKnown) {
  expect_error(eval("passkey,haiku", {}), 2, {"haiku", "passkey, needle, perplexity, short-text"});
  expect_error(eval("passkey,passkey", {}), 2, {"twice"});
  expect_error(eval("needle", {"--needle-form", "poem", "--lengths", "512"}), 2,
               {"poem", "number, sentence"});
  expect_error(eval("perplexity", {}), 2, {"--text"});
  expect_error(eval("short-text", {}), 2, {"--text"});
  expect_error(eval("passkey", {"--outside", "sparse=nonsense"}), 2, {"nonsense"});
  expect_error(eval("passkey", {"--text", path("text")}), 2, {"--haystack"});
  expect_error(eval("passkey", {"--samples", "0"}), 2, {"--samples 0"});
  expect_error(eval("passkey", {"--lengths", "many"}), 2, {"many"});
  expect_error(eval("passkey", {"--lengths", "64"}), 2, {"64", "too few"});
  EXPECT_EQ(eval("", {}).code, 2);
}

TEST_F(EvalProgram, RefusesBadInputBeforeItStarts) {
  expect_error(eval("needle", {"--lengths", "512", "--haystack", path("empty")}), 1,
               {"empty", "no text"});
  expect_error(eval("needle", {"--lengths", "512", "--haystack", path("nowhere")}), 1, {"nowhere"});
  expect_error(eval("perplexity", {"--lengths", "1M", "--text", path("text")}), 1,
               {"1048576 tokens", "the longest has"});
  expect_error(eval("passkey", {"--lengths", "1G"}), 1, {"GB", "memory are free"});
  const DirectoryLock lock([] {
    fs::create_directories(folder_ / "held");
    return folder_ / "held";
  }());
  expect_error(eval("passkey", {"--lengths", "512", "-o", path("held")}), 1, {"held"});
}

TEST_F(EvalProgram, KeepsWhatThereIsOnCtrlC) {
  const ProgramResult result = eval(
      "passkey", {"--lengths", "512", "--samples", "100000", "-o", path("stopped")}, [](pid_t pid) {
        // The lock is taken right before the weights are read.
        for (int i = 0; i < 600 && !fs::exists(path("stopped/.longgen.lock")); ++i) {
          usleep(100'000);
        }
        usleep(2'000'000);
        kill(pid, SIGINT);
      });
  EXPECT_EQ(result.code, 130) << result.err;
  EXPECT_THAT(result.out, HasSubstr("stopped early"));
  const json results = json::parse(read_text_file(path("stopped/results.json")));
  EXPECT_EQ(results["complete"], false);
  EXPECT_GT(results["results"]["passkey"]["overall"]["samples"], 0);
  EXPECT_THAT(read_text_file(path("stopped/report.html")), HasSubstr("Stopped early"));
}

TEST_F(EvalProgram, GeneratesAndScores) {
  const ProgramResult one =
      longgen({"generate", model_, "-p", "The captain", "-n", "8", "--ignore-eos"});
  ASSERT_EQ(one.code, 0) << one.err;
  EXPECT_THAT(one.err,
              AllOf(HasSubstr("prefill"), HasSubstr("KV cache"), HasSubstr("all layers full")));
  write("prompt.txt", "of ship");
  const ProgramResult two =
      longgen({"generate", model_, "-p", "The captain", "-f", path("prompt.txt"), "-n", "8",
               "--ignore-eos", "--json", "-q"});
  ASSERT_EQ(two.code, 0) << two.err;
  EXPECT_EQ(two.err, "");
  std::istringstream lines(two.out);
  std::string line;
  std::getline(lines, line);
  const json first = json::parse(line);
  EXPECT_EQ(first["text"].get<std::string>() + "\n", one.out) << "greedy, alone or with others";
  EXPECT_EQ(first["tokens"].size(), 8u);
  EXPECT_EQ(first["finish_reason"], "length");
  std::getline(lines, line);
  EXPECT_EQ(json::parse(line)["prompt"], "of ship");

  const ProgramResult score = longgen({"score", model_, "--text", path("prompt.txt"), "--json"});
  ASSERT_EQ(score.code, 0) << score.err;
  const json scored = json::parse(score.out);
  EXPECT_EQ(scored["tokens"].size(), 7u);
  EXPECT_EQ(scored["logprobs"].size(), 6u);
  double nll = 0;
  for (const double x : scored["logprobs"]) nll -= x / 6;
  EXPECT_NEAR(scored["perplexity"].get<double>(), std::exp(nll), 1e-6);

  // Beyond the length it was made for: a warning, not a refusal.
  const ProgramResult longer = longgen({"score", model_, "--text", path("text/story.txt")});
  EXPECT_EQ(longer.code, 0);
  EXPECT_THAT(longer.err, HasSubstr("quality may suffer"));

  expect_error(longgen({"generate", model_}), 2, {"-p TEXT"});
  expect_error(longgen({"generate", model_, "-p", "a", "--top-p", "2"}), 2, {"--top-p"});
  expect_error(longgen({"generate", model_, "-p", "a", "-n", "0"}), 2, {"-n 0"});
  expect_error(longgen({"generate", model_, "-f", path("missing")}), 1, {"missing"});
  expect_error(longgen({"score", model_, "--text", path("empty/none")}), 1, {"none"});
  expect_error(longgen({"generate", path("missing"), "-p", "a"}), 1, {"missing"});
  expect_error(longgen({"generate", model_, "-p", "a", "-n", "1G"}), 1, {"GB", "memory are free"});
}

// Whether it is the build, the machine or the number that is lacking.
TEST_F(EvalProgram, AGpuThatIsNotThereIsAnError) {
  const std::vector<std::vector<std::string>> commands = {
      {"generate", model_, "-p", "a"},
      {"score", model_, "--text", path("text/story.txt")},
      {"eval", model_, "--tasks", "passkey", "--lengths", "512"},
      {"chat", model_, "-p", "a"},
      {"train", "--data.paths", path("text"), "--output", path("gpu"), "--train.length", "64"},
      {"extend", model_, "--data", path("text"), "-o", path("gpu"), "--length", "256"},
      {"bench", "gemm", "--size", "8x8x8"},
      {"bench", "decode", "--shape", "tiny", "--depths", "0"}};
  for (std::vector<std::string> command : commands) {
    command.insert(command.end(), {"--device", "cuda:99"});
    const ProgramResult result = longgen(command);
    EXPECT_EQ(result.code, 1) << command[0];
    EXPECT_THAT(result.err, ::testing::AnyOf(HasSubstr("GPU"), HasSubstr("without CUDA")));
    command.back() = "gpu";
    expect_error(longgen(command), 2, {"unknown device", "cuda:N"});
  }
}

}  // namespace
}  // namespace longgen
