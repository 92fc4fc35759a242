// `longgen train` and `longgen extend` as a user runs them: as processes that are killed,
// interrupted and given bad input.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "longgen/base/mapped_file.h"
#include "longgen/base/rng.h"

namespace longgen {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

// A running `longgen`; stdout is thrown away, stderr goes to a file.
class Program {
 public:
  Program(const std::vector<std::string>& arguments, const fs::path& errors) : errors_(errors) {
    pid_ = fork();
    if (pid_ != 0) return;
    const int err = ::open(errors.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    const int null = ::open("/dev/null", O_WRONLY);
    dup2(null, STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    std::vector<char*> argv = {const_cast<char*>(LONGGEN_PROGRAM)};
    for (const std::string& argument : arguments)
      argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    execv(LONGGEN_PROGRAM, argv.data());
    _exit(127);
  }
  ~Program() {
    if (pid_ <= 0) return;
    signal(SIGKILL);
    wait();
  }

  void signal(int number) const { ::kill(pid_, number); }

  // The exit code; minus the signal when one ended it.
  int wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  std::string errors() const { return read_text_file(errors_); }

 private:
  fs::path errors_;
  pid_t pid_ = -1;
};

class TrainingTest : public testing::Test {
 protected:
  TrainingTest() {
    std::string name = (fs::temp_directory_path() / "longgen-training-XXXXXX").string();
    folder_ = mkdtemp(name.data());
    Rng rng(3, 0);
    const std::vector<std::string> words = {"one ", "two ", "three ", "four\r\n", "five. "};
    for (int file = 0; file < 4; ++file) {
      std::string text;
      while (text.size() < 700 + 300u * static_cast<size_t>(file))
        text += words[rng.below(words.size())];
      write("text/" + std::to_string(file) + ".txt", text);
    }
    write("recipe.toml", R"(
[model]
hidden_size = 32
num_layers = 3
num_heads = 2
block_size = 16

[data]
paths = [")" + path("text") + R"("]
max_document_tokens = 160

[train]
length = 128
batch_tokens = 256
steps = 40
lr = 3e-3
checkpoint_every = 3
)");
  }
  ~TrainingTest() override { fs::remove_all(folder_); }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  void write(const std::string& name, std::string_view text) const {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }

  std::vector<std::string> train(const std::string& output,
                                 std::vector<std::string> more = {}) const {
    std::vector<std::string> all = {
        "train", "--config", path("recipe.toml"), "-o", path(output), "--threads", "1"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  Program start(const std::vector<std::string>& arguments) const {
    return {arguments, folder_ / "errors"};
  }
  // Runs to the end; returns the exit code and keeps stderr in errors_.
  int run(const std::vector<std::string>& arguments) {
    Program program = start(arguments);
    const int code = program.wait();
    errors_ = program.errors();
    return code;
  }

  std::vector<nlohmann::json> metrics(const std::string& output) const {
    std::vector<nlohmann::json> lines;
    std::istringstream text(read_text_file(folder_ / output / "metrics.jsonl"));
    for (std::string line; std::getline(text, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }
  // Everything but timings, as text: doubles in it read back bit for bit.
  std::vector<std::string> results(const std::string& output) const {
    std::vector<std::string> found;
    for (const auto& line : metrics(output)) {
      found.push_back(line["step"].dump() + " " + line["loss"].dump() + " " +
                      line["gradient_norm"].dump());
    }
    return found;
  }
  // Until the run has done `step` steps (at most a minute).
  void wait_for_step(const std::string& output, size_t step) const {
    const fs::path file = folder_ / output / "metrics.jsonl";
    for (int i = 0; i < 6000; ++i) {
      if (fs::exists(file)) {
        const std::string text = read_text_file(file);
        if (static_cast<size_t>(std::count(text.begin(), text.end(), '\n')) >= step) return;
      }
      usleep(10000);
    }
    FAIL() << "no step " << step;
  }

  fs::path folder_;
  std::string errors_;
};

TEST_F(TrainingTest, KilledAtRandomMomentsItEndsBitEqual) {
  ASSERT_EQ(run(train("whole")), 0) << errors_;
  const auto whole = results("whole");
  ASSERT_EQ(whole.size(), 40u);
  // Delays scale with the time that a run takes here, so that kills fall everywhere in it.
  double seconds = 0;
  for (const auto& line : metrics("whole")) seconds += line["seconds"].get<double>();
  Rng rng(static_cast<uint64_t>(getpid()), 0);
  int kills = 0;
  bool resumed = false;
  for (;; ++kills) {
    ASSERT_LT(kills, 200);
    Program program = start(train("killed"));
    // The first kill comes after a checkpoint, so that something is resumed; the others anywhere.
    if (kills == 0) wait_for_step("killed", 5);
    if (kills < 12) {
      usleep(static_cast<useconds_t>(1e6 * (kills == 0 ? 0 : 0.05 + seconds * rng.uniform())));
      program.signal(SIGKILL);
    }
    const int code = program.wait();
    resumed = resumed || program.errors().find("resuming after step") != std::string::npos;
    if (code == 0) break;
    ASSERT_EQ(code, -SIGKILL) << program.errors();
  }
  EXPECT_GT(kills, 0);
  EXPECT_TRUE(resumed);
  EXPECT_EQ(results("killed"), whole);
  EXPECT_EQ(read_text_file(folder_ / "killed/model.safetensors"),
            read_text_file(folder_ / "whole/model.safetensors"));
}

TEST_F(TrainingTest, CtrlCWritesACheckpointAndSaysHowToGoOn) {
  ASSERT_EQ(run(train("whole")), 0) << errors_;
  for (const int number : {SIGINT, SIGTERM}) {
    const std::string output = "stopped" + std::to_string(number);
    // Only the checkpoint of the signal itself can be found.
    Program program =
        start(train(output, {"--train.checkpoint_every", "0", "--train.steps", "40"}));
    wait_for_step(output, 2);
    program.signal(number);
    usleep(1000);
    program.signal(number);  // as `timeout` does: once the process, once its group
    ASSERT_EQ(program.wait(), 130) << program.errors();
    EXPECT_THAT(program.errors(), AllOf(HasSubstr("checkpoint"), HasSubstr("same command again")));
    ASSERT_FALSE(fs::exists(folder_ / output / "config.json"));
    const size_t before = results(output).size();
    EXPECT_LT(before, 40u);
    ASSERT_EQ(run(train(output)), 0) << errors_;
    EXPECT_THAT(errors_, HasSubstr("resuming after step " + std::to_string(before)));
    EXPECT_EQ(results(output), results("whole"));
  }
}

// A checkpoint of nothing would only cost time and disk.
TEST_F(TrainingTest, CtrlCBeforeTheFirstStepLeavesNoCheckpoint) {
  std::string text;
  for (int i = 0; i < 400000; ++i) text += "{\"text\": \"a line of its own\"}\n";
  write("many.jsonl", text);
  Program program = start(train("early", {"--data.paths", path("many.jsonl")}));
  for (int i = 0; i < 1000 && !fs::exists(folder_ / "early/cache"); ++i) usleep(1000);
  program.signal(SIGINT);
  ASSERT_EQ(program.wait(), 130) << program.errors();
  EXPECT_THAT(program.errors(), HasSubstr("before the first step"));
  EXPECT_FALSE(fs::exists(folder_ / "early/state"));
}

TEST_F(TrainingTest, ADamagedCheckpointIsNamedAndSkipped) {
  ASSERT_EQ(run(train("run")), 0) << errors_;
  const std::string model = read_text_file(folder_ / "run/model.safetensors");
  const auto whole = results("run");
  fs::resize_file(folder_ / "run/state/step-40/master", 100);
  ASSERT_EQ(run(train("run")), 0) << errors_;
  EXPECT_THAT(errors_, AllOf(HasSubstr("step-40"), HasSubstr("resuming after step 39")));
  EXPECT_EQ(results("run"), whole);
  EXPECT_EQ(read_text_file(folder_ / "run/model.safetensors"), model);
}

// An all-full "hybrid" at the old RoPE base is the model it came from.
TEST_F(TrainingTest, ExtendStartsWhereTrainStarts) {
  ASSERT_EQ(run(train("source", {"--train.steps", "6"})), 0) << errors_;
  for (const std::string dtype : {"f32", "bf16"}) {
    const std::vector<std::string> same = {"--data.paths",
                                           path("text"),
                                           "--train.length",
                                           "256",
                                           "--train.batch_tokens",
                                           "512",
                                           "--train.steps",
                                           "1",
                                           "--train.seed",
                                           "5",
                                           "--dtype",
                                           dtype,
                                           "--threads",
                                           "1"};
    std::vector<std::string> onwards = {
        "train", "--model.path", path("source"),         "--model.block_size",
        "16",    "-o",           path("onwards" + dtype)};
    std::vector<std::string> extended = {
        "extend",       path("source"), "--hybrid", "full=middle:3 sparse=local:2,sink:1,block:16",
        "--rope-theta", "10000",        "-o",       path("extended" + dtype)};
    std::vector<std::string> longer = {"extend", path("source"), "-o", path("longer" + dtype)};
    for (auto* arguments : {&onwards, &extended, &longer}) {
      arguments->insert(arguments->end(), same.begin(), same.end());
      ASSERT_EQ(run(*arguments), 0) << errors_;
    }
    EXPECT_EQ(results("onwards" + dtype), results("extended" + dtype));
    // The default raises the base, which changes the loss.
    EXPECT_NE(results("onwards" + dtype), results("longer" + dtype));
    const auto config =
        nlohmann::json::parse(read_text_file(folder_ / ("longer" + dtype) / "config.json"));
    EXPECT_EQ(config["max_position_embeddings"], 256);
    EXPECT_NEAR(config["rope_parameters"]["rope_theta"].get<double>(), 1e4 * std::pow(2, 1.8), 1);
  }
}

TEST_F(TrainingTest, AnOutputFolderInUseIsRefused) {
  Program first = start(train("run", {"--train.steps", "100000"}));
  wait_for_step("run", 1);
  Program second(train("run"), folder_ / "errors2");
  EXPECT_EQ(second.wait(), 1);
  EXPECT_THAT(second.errors(), HasSubstr(path("run")));
}

TEST_F(TrainingTest, BadInputIsExplained) {
  const auto refused = [&](const std::vector<std::string>& arguments, int code,
                           const auto& matcher) {
    EXPECT_EQ(run(arguments), code) << errors_;
    EXPECT_THAT(errors_, matcher);
  };
  write("bad.toml", "[train]\nlearning_rate = 1\n");
  refused({"train", "--config", path("bad.toml"), "-o", path("x")}, 2,
          AllOf(HasSubstr("bad.toml:2"), HasSubstr("train.learning_rate")));
  refused(train("x", {"--train.lr", "fast"}), 2, HasSubstr("train.lr"));
  refused(train("x", {"--train.lrr", "1"}), 2, HasSubstr("--train.lrr"));
  refused(train("x", {"--data.paths", path("none")}), 1, HasSubstr(path("none")));
  write("empty/a.txt", "");
  refused(train("x", {"--data.paths", path("empty")}), 1, HasSubstr("no text"));
  refused(train("x", {"--data.eval", path("empty")}), 1, HasSubstr("no text"));
  refused(train("x", {"--train.length", "8M", "--train.recompute", "false"}), 1,
          AllOf(HasSubstr("needs"), HasSubstr("available"), HasSubstr("GB"),
                HasSubstr("layer inputs"), HasSubstr("what would fit: ")));
  refused(train("x", {"--train.offload", "outputs"}), 2,
          AllOf(HasSubstr("train.offload"), HasSubstr("host memory")));
  refused(train("x", {"--train.optimizer_state", "bf16", "--dtype", "f32"}), 2,
          HasSubstr("train.optimizer_state"));
  refused({"extend", path("none"), "--data", path("text"), "--length", "256", "-o", path("x")}, 1,
          HasSubstr(path("none")));
  refused({"extend", "--data", path("text"), "--length", "256", "-o", path("x")}, 2,
          HasSubstr("MODEL"));
  EXPECT_FALSE(fs::exists(folder_ / "x/config.json"));

  ASSERT_EQ(run(train("plan", {"--plan"})), 0) << errors_;  // takes nothing, writes nothing
  EXPECT_FALSE(fs::exists(folder_ / "plan"));
  ASSERT_EQ(run(train("run", {"--train.steps", "4"})), 0) << errors_;
  EXPECT_THAT(errors_, AllOf(HasSubstr("gradient accumulators, f32"), HasSubstr("layer inputs"),
                             HasSubstr("planned, ")));
  refused(train("run", {"--train.steps", "4", "--train.lr", "0.5"}), 2,
          HasSubstr("train.lr: 0.5, was 0.003"));
  write("text/0.txt", "other text");
  refused(train("run", {"--train.steps", "4"}), 1, HasSubstr("text differs"));
  refused(
      {"train", "--config", path("recipe.toml"), "--model.path", path("run"), "-o", path("run")}, 2,
      HasSubstr("another recipe"));
}

}  // namespace
}  // namespace longgen
