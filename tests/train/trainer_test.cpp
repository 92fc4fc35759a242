#include "longgen/train/trainer.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>
#include <numeric>

#include "longgen/base/error.h"
#include "longgen/base/interrupt.h"
#include "longgen/base/log.h"
#include "longgen/base/mapped_file.h"
#include "longgen/base/units.h"
#include "longgen/train/memory_plan.h"
#include "longgen/train/run_loop.h"
#include "tests/testing/counting_memory.h"
#include "tests/testing/error_of.h"
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

// kBf16State: without f32 masters and moments.
enum class Numbers : uint8_t { kF32, kBf16, kBf16State };

class ResumeTest : public ::testing::TestWithParam<std::tuple<Numbers, data::Packing>> {
 protected:
  ResumeTest() : backend_(make_cpu_backend(2)), data_(std::get<1>(GetParam())) {
    spdlog::set_level(spdlog::level::off);
  }
  ~ResumeTest() override { spdlog::set_level(spdlog::level::info); }

  // Runs in `output` until done, or until `kill_after` steps have been done in this process.
  bool run(const fs::path& output, int64_t kill_after, int64_t checkpoint_every = 3) {
    fs::create_directories(output);
    const Numbers numbers = std::get<0>(GetParam());
    TrainerOptions trainer_options = tiny_options();
    trainer_options.optimizer.bf16_state = numbers == Numbers::kBf16State;
    trainer_options.optimizer.seed = 17;
    auto trainer = make_trainer(*backend_, numbers == Numbers::kF32 ? DType::kF32 : DType::kBF16,
                                trainer_options);
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
    EXPECT_TRUE(last_ == whole) << ::testing::PrintToString(last_.lines) << "\n"
                                << ::testing::PrintToString(whole.lines);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, ResumeTest,
    ::testing::Combine(::testing::Values(Numbers::kF32, Numbers::kBf16, Numbers::kBf16State),
                       ::testing::Values(data::Packing::kConcat, data::Packing::kIsolated)));

class TrainerTest : public ::testing::Test {
 protected:
  TrainerTest() : backend_(make_cpu_backend(2)) {}

  std::unique_ptr<Backend> backend_;
  TinyData data_;
};

TEST_F(TrainerTest, RecomputationChangesNothing) {
  using model::KeptOutputs;
  const std::vector<model::TrainOptions> policies = {
      {.recompute = false},
      {.recompute = true},
      {.recompute_attention = false},
      {.keep_outputs = KeptOutputs::kAllLayers},
      {.keep_outputs = KeptOutputs::kFullLayers, .offload = model::Offload::kInputsAndOutputs}};
  model::ModelConfig config = tiny_config();
  config.num_layers = 5;  // more than two: only then is anything offloaded
  model::set_full_attention(config, 16);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    std::vector<double> first_records;
    std::vector<std::byte> first_weights;
    for (const model::TrainOptions& policy : policies) {
      TrainerOptions options = tiny_options();
      options.pass = policy;
      options.pass.mlp_chunk = options.pass.loss_chunk = 32;
      const auto trainer = make_trainer(*backend_, dtype, options, config);
      data::DataPosition position;
      std::vector<double> records;
      for (int64_t step = 0; step < 3; ++step) {
        const StepRecord record = trainer->step(step, *data_.packer, position);
        records.push_back(record.loss);
        records.push_back(record.gradient_norm);
      }
      const auto weights = bytes_of(trainer->optimizer().master());
      if (first_records.empty()) {
        first_records = records;
        first_weights = weights;
      }
      EXPECT_EQ(records, first_records);
      EXPECT_EQ(weights, first_weights);
    }
  }
}

// Losses of a run with bf16 state against those of one with f32 masters, from equal weights.
TEST_F(TrainerTest, Bf16StateLearnsAsMastersDo) {
  std::vector<double> losses[2];
  for (const bool bf16_state : {false, true}) {
    TrainerOptions options = tiny_options(1);
    options.schedule = {.kind = ScheduleKind::kConstant, .lr = 1e-3, .warmup_steps = 5};
    options.optimizer.bf16_state = bf16_state;
    const auto trainer = make_trainer(*backend_, DType::kBF16, options);
    data::DataPosition position;
    for (int64_t step = 0; step < 120; ++step) {
      losses[bf16_state].push_back(trainer->step(step, *data_.packer, position).loss);
    }
  }
  EXPECT_EQ(losses[0][0], losses[1][0]);
  EXPECT_NE(losses[0], losses[1]);
  const auto mean_of_last = [](const std::vector<double>& x) {
    return std::accumulate(x.end() - 20, x.end(), 0.0) / 20;
  };
  const double masters = mean_of_last(losses[0]), state = mean_of_last(losses[1]);
  EXPECT_LT(masters, 0.6 * losses[0][0]);
  // Noise of a bf16's spacing on weights of up to 0.06 costs tiny models little.
  EXPECT_NEAR(state, masters, 0.05 * masters);
  EXPECT_THROW(
      make_trainer(*backend_, DType::kF32, {.length = 64, .optimizer = {.bf16_state = true}}),
      Error);
}

// All there is was asked for when the trainer was made.
TEST_F(TrainerTest, AStepAllocatesNothing) {
  for (const bool recompute : {false, true}) {
    testing::CountingMemory memory;
    TrainerOptions options = tiny_options();
    options.pass.recompute = recompute;
    Trainer trainer(tiny_config(), *backend_, DType::kBF16, options, memory);
    model::initialize(tiny_config(), 1, trainer.optimizer().master());
    trainer.optimizer().publish_master();
    const int64_t before = memory.allocations();
    EXPECT_GT(before, 3);
    data::DataPosition position;
    for (int64_t step = 0; step < 3; ++step) trainer.step(step, *data_.packer, position);
    EXPECT_EQ(memory.allocations(), before);
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
    EXPECT_THAT(e.what(), ::testing::HasSubstr("step 4"));
  }
  EXPECT_EQ(position, data::DataPosition{});
}

TEST_F(TrainerTest, MeasuresWithoutMemory) {
  NoMemory none;
  const Trainer measured(tiny_config(), *backend_, DType::kBF16, tiny_options(), none);
  const auto real = make_trainer(*backend_, DType::kBF16, tiny_options());
  EXPECT_EQ(measured.bytes(), real->bytes());
  EXPECT_GT(measured.bytes(), 18 * model::parameter_count(tiny_config()));
  int64_t sum = 0;
  for (const model::MemoryItem& item : measured.memory_items()) sum += item.bytes;
  EXPECT_EQ(sum, real->bytes());
}

TEST_F(TrainerTest, RefusesWhatDoesNotFitAndSaysWhatWould) {
  using ::testing::HasSubstr;
  TrainerOptions options = tiny_options();
  options.length = 4096;
  options.pass.recompute = false;
  const auto plan = plan_memory(tiny_config(), *backend_, DType::kBF16, options);
  const int64_t slack = int64_t{64} << 20;
  const AvailableMemory enough{plan.device_bytes() + slack, 0};
  EXPECT_EQ(check_memory(tiny_config(), *backend_, DType::kBF16, options, enough).device_bytes(),
            plan.device_bytes());
  const auto message = [&](int64_t available) {
    return longgen::testing::error_of([&] {
      check_memory(tiny_config(), *backend_, DType::kBF16, options, {available, 0});
    });
  };
  EXPECT_THAT(message(enough.device - 1),
              AllOf(HasSubstr(format_bytes(plan.device_bytes() + slack)), HasSubstr("layer inputs"),
                    HasSubstr("gradient accumulators, f32"), HasSubstr("train.recompute = true"),
                    HasSubstr("train.length = 2K"), Not(HasSubstr("train.offload"))));
  EXPECT_THAT(message(slack + 1000), HasSubstr("smaller model"));
}

TEST_F(TrainerTest, KeepsAsMuchAsFits) {
  using model::KeptOutputs;
  const int64_t process = int64_t{64} << 20;
  TrainerOptions options = tiny_options();
  options.length = 4096;
  const auto bytes = [&](const model::TrainOptions& pass) {
    TrainerOptions changed = options;
    changed.pass = pass;
    return plan_memory(tiny_config(), *backend_, DType::kBF16, changed).device_bytes() + process;
  };
  const auto kept = [&](int64_t budget) {
    return keep_more(tiny_config(), *backend_, DType::kBF16, options, budget);
  };
  model::TrainOptions none = options.pass, mlp = none, outputs = none;
  none.recompute = false;
  mlp.recompute_attention = false;
  outputs.keep_outputs = KeptOutputs::kAllLayers;
  ASSERT_GT(bytes(none), bytes(mlp));
  ASSERT_GT(bytes(mlp), bytes(outputs));
  ASSERT_GT(bytes(outputs), bytes(options.pass));
  EXPECT_FALSE(kept(bytes(none)).recompute);
  for (const int64_t budget : {bytes(none) - 1, bytes(mlp)}) {
    EXPECT_TRUE(kept(budget).recompute);
    EXPECT_FALSE(kept(budget).recompute_attention);
  }
  for (const int64_t budget : {bytes(mlp) - 1, bytes(outputs)}) {
    EXPECT_TRUE(kept(budget).recomputes_attention());
    EXPECT_EQ(kept(budget).keep_outputs, KeptOutputs::kAllLayers);
  }
  EXPECT_EQ(bytes(kept(0)), bytes(options.pass));
  // Never less than asked for.
  options.pass = mlp;
  EXPECT_FALSE(kept(0).recompute_attention);
  options.pass = none;
  EXPECT_FALSE(kept(0).recompute);
  options.pass = outputs;
  EXPECT_EQ(kept(0).keep_outputs, KeptOutputs::kAllLayers);
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
