#include "longgen/train/trainer.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "longgen/base/error.h"
#include "longgen/base/interrupt.h"
#include "longgen/base/log.h"
#include "longgen/base/mapped_file.h"
#include "longgen/train/run_loop.h"
#include "tests/train/train_testing.h"

namespace longgen::train {
namespace {

namespace fs = std::filesystem;

struct Killed {};

// What a run leaves: every train line's loss and norm as text, and the final state.
struct RunResult {
  std::vector<std::string> lines;
  std::vector<std::byte> master, moment1, moment2, weights;

  bool operator==(const RunResult&) const = default;
};

class ResumeTest : public testing::TestWithParam<std::tuple<DType, data::Packing>> {
 protected:
  ResumeTest() : backend_(make_cpu_backend(2)), data_(std::get<1>(GetParam())) {
    spdlog::set_level(spdlog::level::off);
  }
  ~ResumeTest() override { spdlog::set_level(spdlog::level::info); }

  // Runs in `output` until done, or until `kill_after` steps have been done in this process.
  bool run(const fs::path& output, int64_t kill_after, int64_t checkpoint_every = 3) {
    fs::create_directories(output);
    auto trainer = make_trainer(*backend_, std::get<0>(GetParam()), tiny_options());
    const CheckpointStore store(output / "state", 2);
    RunState state;
    if (auto before = store.load_newest(trainer->optimizer())) state = *before;
    data::Packer held_out(*data_.corpus, data_.corpus->documents(),
                          {.packing = std::get<1>(GetParam()),
                           .length = kLength,
                           .block_size = 16,
                           .shuffle = false});
    int64_t done = 0;
    RunOptions options{.output = output,
                       .steps = kSteps,
                       .eval_every = 5,
                       .eval_tokens = 100,
                       .checkpoint_every = checkpoint_every,
                       .keep_checkpoints = 2,
                       .quiet = true};
    options.after_step = [&](const StepRecord&) {
      if (++done == kill_after) throw Killed();
    };
    try {
      run_training(*trainer, *data_.packer, &held_out, state, options);
    } catch (const Killed&) {
      return false;
    }
    last_ = {.master = bytes_of(trainer->optimizer().master()),
             .moment1 = bytes_of(trainer->optimizer().first_moment()),
             .moment2 = bytes_of(trainer->optimizer().second_moment()),
             .weights = bytes_of(trainer->optimizer().weights())};
    std::istringstream metrics(read_text_file(output / "metrics.jsonl"));
    for (std::string line; std::getline(metrics, line);) {
      auto value = nlohmann::json::parse(line);
      for (const char* timing : {"seconds", "tokens_per_second", "flops_per_second",
                                 "dense_equivalent_flops_per_second", "resident_bytes"}) {
        value.erase(timing);
      }
      last_.lines.push_back(value.dump());
    }
    return true;
  }

  static constexpr int64_t kSteps = 12;  // more than two epochs of the tiny data
  std::unique_ptr<Backend> backend_;
  TinyData data_;
  ScratchFolder output_;
  RunResult last_;
};

TEST_P(ResumeTest, KilledRunsEndBitEqual) {
  ASSERT_TRUE(run(output_.path() / "whole", -1));
  const RunResult whole = last_;
  EXPECT_EQ(whole.lines.size(), 12u + 4);  // evaluations after 0, 5, 10 and 12 steps
  Rng rng(11, 0);
  for (int round = 0; round < 4; ++round) {
    const fs::path output = output_.path() / std::to_string(round);
    int kills = 0;
    while (!run(output, 1 + static_cast<int64_t>(rng.below(6)))) {
      ASSERT_LT(++kills, 30);
    }
    EXPECT_GT(kills, 0);
    EXPECT_TRUE(last_ == whole) << testing::PrintToString(last_.lines) << "\n"
                                << testing::PrintToString(whole.lines);
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, ResumeTest,
                         testing::Combine(testing::Values(DType::kF32, DType::kBF16),
                                          testing::Values(data::Packing::kConcat,
                                                          data::Packing::kIsolated)));

class TrainerTest : public testing::Test {
 protected:
  TrainerTest() : backend_(make_cpu_backend(2)) {}

  std::unique_ptr<Backend> backend_;
  TinyData data_;
};

TEST_F(TrainerTest, RecomputationChangesNothing) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    std::vector<double> records[2];
    std::vector<std::byte> weights[2];
    for (const bool recompute : {false, true}) {
      TrainerOptions options = tiny_options();
      options.pass.recompute = recompute;
      const auto trainer = make_trainer(*backend_, dtype, options);
      data::DataPosition position;
      for (int64_t step = 0; step < 3; ++step) {
        const StepRecord record = trainer->step(step, *data_.packer, position);
        records[recompute].push_back(record.loss);
        records[recompute].push_back(record.gradient_norm);
      }
      weights[recompute] = bytes_of(trainer->optimizer().master());
    }
    EXPECT_EQ(records[0], records[1]);
    EXPECT_EQ(weights[0], weights[1]);
  }
}

// Four sequences of 64 in one step against one sequence that holds them as isolated documents.
TEST_F(TrainerTest, AccumulationEqualsOneBigBatch) {
  std::string lines;
  for (uint64_t i = 0; i < 4; ++i) {
    // Unequal lengths, so that a mean of means would show.
    lines += "{\"text\": \"" + random_text(i, 40).substr(0, 63 - 10 * i) + "\"}\n";
  }
  const auto path = data_.folder.write("four.jsonl", lines);
  const data::Corpus corpus(
      data::TokenCache(data_.folder.path() / "cache", data::byte_encoder(), "text", true),
      {{.path = path}});
  const auto gradient_of = [&](int64_t length, int64_t batch, StepRecord& record) {
    TrainerOptions options = tiny_options(batch);
    options.length = length;
    options.optimizer.clip = 0;
    const auto trainer = make_trainer(*backend_, DType::kF32, options);
    data::Packer packer(corpus, corpus.documents(),
                        {.packing = data::Packing::kIsolated,
                         .length = length,
                         .block_size = 16,
                         .shuffle = false});
    EXPECT_EQ(packer.sequences(0), batch);
    data::DataPosition position;
    record = trainer->step(0, packer, position);
    std::vector<float> values;
    for (const Tensor& t : trainer->optimizer().gradients().tensors()) {
      values.insert(values.end(), t.data<float>(), t.data<float>() + t.numel());
    }
    return values;
  };
  StepRecord four, one;
  const auto a = gradient_of(64, 4, four), b = gradient_of(256, 1, one);
  EXPECT_EQ(four.targets, one.targets);
  EXPECT_NEAR(four.loss, one.loss, 1e-6 * one.loss);
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  // f32 sums of 200 terms in another order.
  EXPECT_LT(std::sqrt(difference / norm), 1e-5);
}

TEST_F(TrainerTest, MemorisesASmallText) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const auto path = data_.folder.write("small.txt", random_text(3, 30));
    const data::Corpus corpus(
        data::TokenCache(data_.folder.path() / "cache", data::byte_encoder(), "text", true),
        {{.path = path}});
    data::Packer packer(corpus, corpus.documents(), {.length = kLength});
    TrainerOptions options = tiny_options(1);
    options.schedule = {.kind = ScheduleKind::kConstant, .lr = 1e-2, .warmup_steps = 5};
    const auto trainer = make_trainer(*backend_, dtype, options);
    data::DataPosition position;
    const double first = trainer->step(0, packer, position).loss;
    EXPECT_NEAR(first, std::log(257), 0.3);  // knows nothing yet
    double last = 0;
    for (int64_t step = 1; step < 200; ++step) last = trainer->step(step, packer, position).loss;
    EXPECT_LT(last, 0.3);
    const EvalRecord held = trainer->evaluate(packer, 1 << 20);
    EXPECT_LT(held.loss, 0.5);
    EXPECT_EQ(held.by_position.size(), 1u);
    EXPECT_NEAR(held.by_position[0].loss, held.loss, 1e-5);
  }
}

TEST_F(TrainerTest, DamagedWeightsStopTheRunAndNameTheStep) {
  const auto trainer = make_trainer(*backend_, DType::kF32, tiny_options());
  trainer->optimizer().master()["model.norm.weight"].data<float>()[0] =
      std::numeric_limits<float>::quiet_NaN();
  data::DataPosition position;
  try {
    trainer->step(4, *data_.packer, position);
    FAIL();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), testing::HasSubstr("step 4"));
  }
  EXPECT_EQ(position, data::DataPosition{});
}

TEST_F(TrainerTest, MeasuresWithoutMemory) {
  NoMemory none;
  const Trainer measured(tiny_config(), *backend_, DType::kBF16, tiny_options(), none);
  const auto real = make_trainer(*backend_, DType::kBF16, tiny_options());
  EXPECT_EQ(measured.bytes(), real->bytes());
  EXPECT_GT(measured.bytes(), 18 * model::parameter_count(tiny_config()));
}

TEST_F(TrainerTest, StopsBetweenStepsAndGoesOn) {
  ScratchFolder output;
  const auto trainer = make_trainer(*backend_, DType::kF32, tiny_options());
  RunState state;
  RunOptions options{.output = output.path(), .steps = 8, .keep_checkpoints = 1, .quiet = true};
  options.stop_requested = [&] { return state.step == 3; };
  EXPECT_FALSE(run_training(*trainer, *data_.packer, nullptr, state, options));
  EXPECT_EQ(state.step, 3);
  const auto saved = CheckpointStore(output.path() / "state", 1).peek_newest();
  ASSERT_TRUE(saved);
  EXPECT_EQ(saved->step, 3);
  EXPECT_EQ(saved->position, state.position);
  options.stop_requested = nullptr;
  EXPECT_TRUE(run_training(*trainer, *data_.packer, nullptr, state, options));
  EXPECT_EQ(state.step, 8);
}

TEST_F(TrainerTest, StopsInsideAStepAndForgetsIt) {
  const auto trainer = make_trainer(*backend_, DType::kF32, tiny_options(2));
  const auto before = bytes_of(trainer->optimizer().master());
  data::DataPosition position;
  int asked = 0;
  EXPECT_THROW(trainer->step(0, *data_.packer, position, [&] { return ++asked == 2; }),
               Interrupted);
  EXPECT_EQ(position, data::DataPosition());
  EXPECT_EQ(bytes_of(trainer->optimizer().master()), before);
  const StepRecord again = trainer->step(0, *data_.packer, position);
  const auto other = make_trainer(*backend_, DType::kF32, tiny_options(2));
  position = {};
  const StepRecord whole = other->step(0, *data_.packer, position);
  EXPECT_EQ(again.loss, whole.loss);
  EXPECT_EQ(again.gradient_norm, whole.gradient_norm);
}

// The evaluation that was left is made up for, once.
TEST_F(TrainerTest, StopsInsideAnEvaluationAndRepeatsIt) {
  ScratchFolder output;
  auto trainer = make_trainer(*backend_, DType::kF32, tiny_options());
  RunState state;
  bool evaluating = false;  // the step that is evaluated after has been done
  RunOptions options{.output = output.path(),
                     .steps = 6,
                     .eval_every = 3,
                     .eval_tokens = 2 * kLength,
                     .keep_checkpoints = 1,
                     .quiet = true};
  options.after_step = [&](const StepRecord& record) { evaluating = record.step == 2; };
  options.stop_requested = [&] { return evaluating; };
  EXPECT_FALSE(run_training(*trainer, *data_.packer, data_.packer.get(), state, options));
  EXPECT_EQ(state.step, 3);
  evaluating = false;
  options.after_step = nullptr;
  EXPECT_TRUE(run_training(*trainer, *data_.packer, data_.packer.get(), state, options));
  std::vector<int64_t> evaluated;
  std::istringstream metrics(read_text_file(output.path() / "metrics.jsonl"));
  for (std::string line; std::getline(metrics, line);) {
    const auto value = nlohmann::json::parse(line);
    if (value["kind"] == "eval") evaluated.push_back(value["step"]);
  }
  EXPECT_EQ(evaluated, (std::vector<int64_t>{0, 3, 6}));
}

}  // namespace
}  // namespace longgen::train
