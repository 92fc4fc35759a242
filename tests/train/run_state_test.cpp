#include "longgen/train/run_state.h"

#include <gmock/gmock.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>

#include "longgen/base/error.h"
#include "longgen/base/log.h"
#include "longgen/base/mapped_file.h"
#include "tests/testing/error_of.h"
#include "tests/train/train_testing.h"

namespace longgen::train {
namespace {

namespace fs = std::filesystem;

class RunStateTest : public ::testing::Test {
 protected:
  RunStateTest() : backend_(make_cpu_backend(1)) { spdlog::set_level(spdlog::level::off); }
  ~RunStateTest() override { spdlog::set_level(spdlog::level::info); }

  std::unique_ptr<Optimizer> make(uint64_t seed) const {
    auto optimizer = std::make_unique<Optimizer>(tiny_config(), DType::kBF16, *backend_,
                                                 OptimizerOptions{}, backend_->memory());
    model::initialize(tiny_config(), seed, optimizer->master());
    model::initialize(tiny_config(), seed + 1000, optimizer->first_moment());
    model::initialize(tiny_config(), seed + 2000, optimizer->second_moment());
    optimizer->publish_master();
    return optimizer;
  }

  CheckpointStore store(int64_t keep = 2) const { return {folder_.path() / "state", keep}; }

  static RunState state_at(int64_t step) {
    return {.step = step,
            .position = {3, step * 2},
            .tokens = step * 100,
            .seed = 0xfedcba9876543210u,
            .data_hash = "abc",
            .recipe = "[train]\nlr = 0.5\n",
            .backend = "cpu"};
  }

  static void expect_equal(const Optimizer& a, const Optimizer& b) {
    EXPECT_EQ(bytes_of(a.master()), bytes_of(b.master()));
    EXPECT_EQ(bytes_of(a.first_moment()), bytes_of(b.first_moment()));
    EXPECT_EQ(bytes_of(a.second_moment()), bytes_of(b.second_moment()));
    EXPECT_EQ(bytes_of(a.weights()), bytes_of(b.weights()));
  }

  std::unique_ptr<Backend> backend_;
  ScratchFolder folder_;
};

TEST_F(RunStateTest, BringsEverythingBack) {
  const auto saved = make(1), loaded = make(2);
  store().save(state_at(7), *saved);
  const auto state = store().load_newest(*loaded);
  ASSERT_TRUE(state);
  EXPECT_EQ(state->step, 7);
  EXPECT_EQ(state->position, (data::DataPosition{3, 14}));
  EXPECT_EQ(state->tokens, 700);
  EXPECT_EQ(state->seed, 0xfedcba9876543210u);
  EXPECT_EQ(state->data_hash, "abc");
  EXPECT_EQ(state->recipe, "[train]\nlr = 0.5\n");
  EXPECT_EQ(state->backend, "cpu");
  expect_equal(*saved, *loaded);
}

TEST_F(RunStateTest, FindsNothingInANewFolder) {
  const auto optimizer = make(1);
  EXPECT_FALSE(store().load_newest(*optimizer));
}

TEST_F(RunStateTest, KeepsTheLastOnes) {
  const auto optimizer = make(1);
  for (const int64_t step : {5, 10, 15, 20}) store().save(state_at(step), *optimizer);
  EXPECT_FALSE(fs::exists(store().path(10)));
  EXPECT_TRUE(fs::exists(store().path(15)));
  EXPECT_EQ(store().peek_newest()->step, 20);
  // A run that went back to 15 replaces what came after.
  store().save(state_at(16), *optimizer);
  EXPECT_FALSE(fs::exists(store().path(20)));
  EXPECT_EQ(store().peek_newest()->step, 16);
}

TEST_F(RunStateTest, KnowsThatThereWereOnlyDamagedOnes) {
  const auto optimizer = make(1);
  const CheckpointStore fresh = store();
  EXPECT_FALSE(fresh.load_newest(*optimizer));
  EXPECT_FALSE(fresh.has_damaged());
  fresh.save(state_at(10), *optimizer);
  fs::resize_file(fresh.path(10) / "master", 1);
  EXPECT_FALSE(fresh.load_newest(*optimizer));
  EXPECT_TRUE(fresh.has_damaged());
}

// Whatever is wrong with the newest checkpoint, the one before is found.
TEST_F(RunStateTest, SkipsADamagedCheckpoint) {
  const auto older = make(1), newer = make(2), loaded = make(3);
  const std::vector<std::string> files = {"master",     "moment1",     "moment2",
                                          "state.json", "recipe.toml", "checksums"};
  for (const std::string& file : files) {
    for (const std::string damage : {"flip", "cut", "remove", "empty"}) {
      store().save(state_at(10), *older);
      store().save(state_at(20), *newer);
      const fs::path path = store().path(20) / file;
      if (damage == "flip") {
        std::fstream stream(path, std::ios::in | std::ios::out | std::ios::binary);
        stream.seekg(5);
        const char c = static_cast<char>(stream.get());
        stream.seekp(5);
        stream.put(static_cast<char>(c ^ 1));
      } else if (damage == "cut") {
        fs::resize_file(path, fs::file_size(path) - 1);
      } else if (damage == "empty") {
        fs::resize_file(path, 0);
      } else {
        fs::remove(path);
      }
      const auto state = store().load_newest(*loaded);
      ASSERT_TRUE(state) << file << " " << damage;
      EXPECT_EQ(state->step, 10) << file << " " << damage;
      expect_equal(*older, *loaded);
    }
  }
}

TEST_F(RunStateTest, IgnoresWhatAnInterruptedSaveLeft) {
  const auto optimizer = make(1);
  store().save(state_at(10), *optimizer);
  fs::create_directories(folder_.path() / "state" / ".writing");
  std::ofstream(folder_.path() / "state" / ".writing" / "master") << "half";
  EXPECT_EQ(store().peek_newest()->step, 10);
  EXPECT_FALSE(fs::exists(folder_.path() / "state" / ".writing"));
}

TEST_F(RunStateTest, RefusesAnotherModel) {
  const auto optimizer = make(1);
  store().save(state_at(10), *optimizer);
  model::ModelConfig other = tiny_config();
  other.intermediate_size = 96;
  Optimizer larger(other, DType::kBF16, *backend_, {}, backend_->memory());
  try {
    store().load_newest(larger);
    FAIL();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), ::testing::HasSubstr("another model"));
  }
}

// A full disk, as a limit on file sizes: an error, the former checkpoint whole, nothing
// half-written.
// Checksums that hold do not make what they cover sound.
TEST_F(RunStateTest, NamesAbsurdCounters) {
  const auto optimizer = make(1);
  store().save(state_at(7), *optimizer);
  const fs::path folder = store().path(7);
  const std::string whole = read_text_file(folder / "state.json");
  const auto error_with = [&](const std::string& from, const std::string& to) {
    std::string text = whole;
    text.replace(text.find(from), from.size(), to);
    std::ofstream(folder / "state.json", std::ios::trunc) << text;
    std::string lines;
    for (const char* name : {"master", "moment1", "moment2", "state.json", "recipe.toml"}) {
      const MappedFile file(folder / name);
      lines += fmt::format("{} {} {}\n", data::hash_bytes(file.bytes()).hex(), file.size(), name);
    }
    std::ofstream(folder / "checksums", std::ios::trunc)
        << lines << data::hash_text(lines).hex() << "\n";
    return longgen::testing::error_of([&] { (void)store().load_newest(*optimizer); });
  };
  for (const auto& [from, to] : {std::pair{"\"step\": 7", "\"step\": 1e300"},
                                 {"\"tokens\": 700", "\"tokens\": -1"},
                                 {"\"sequence\": 14", "\"sequence\": null"},
                                 {"\"seed\": 18", "\"seed\": -18"},
                                 {"\"dtype\"", "\"dtyp\""},
                                 {"{", "[{"}}) {
    EXPECT_THAT(error_with(from, to), ::testing::HasSubstr(folder.string())) << to;
  }
}

TEST_F(RunStateTest, SurvivesAFullDisk) {
  const auto older = make(1), newer = make(2), loaded = make(3);
  store().save(state_at(10), *older);
  const fs::path message = folder_.path() / "message";
  const pid_t child = fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{20000, 20000};  // less than the master, more than the message
    setrlimit(RLIMIT_FSIZE, &limit);
    try {
      store().save(state_at(20), *newer);
    } catch (const Error& e) {
      std::ofstream(message) << e.what();
      _exit(0);
    }
    _exit(1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_THAT(read_text_file(message),
              ::testing::AllOf(::testing::HasSubstr("step 20"), ::testing::HasSubstr("master"),
                               ::testing::HasSubstr("make room")));
  EXPECT_FALSE(fs::exists(folder_.path() / "state" / ".writing"));
  EXPECT_FALSE(fs::exists(store().path(20)));
  EXPECT_EQ(store().load_newest(*loaded)->step, 10);
  expect_equal(*older, *loaded);
}

}  // namespace
}  // namespace longgen::train
