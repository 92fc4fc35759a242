// Training on the GPU against the CPU, and runs that move between them.
#include <gtest/gtest.h>

#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "longgen/train/optimizer.h"
#include "longgen/train/session.h"
#include "tests/cuda/cuda_parity.h"
#include "tests/cuda/tiny_models.h"

namespace longgen::testing {
namespace {

namespace fs = std::filesystem;

struct Losses {
  std::vector<double> loss, norm;
};

// AdamW on one batch of random tokens a step.
Losses train(const std::string& name, DType dtype, Backend& backend, int64_t steps) {
  constexpr int64_t kTokens = 192;
  const TinyModel start(name, DType::kF32, backend, DType::kBF16);
  train::Optimizer optimizer(start.config, dtype, backend, {.weight_decay = 0.1, .clip = 1},
                             backend.memory());
  model::copy_parameters(backend, optimizer.master(), *start.weights);
  optimizer.publish_master();
  model::TrainingPass pass(start.config, optimizer.weights(), backend, kTokens, {},
                           backend.memory());
  Losses losses;
  for (int64_t step = 0; step < steps; ++step) {
    // The same four batches again and again, so that there is something to learn.
    const auto ids =
        random_tokens(kTokens + 1, start.config.vocab_size, static_cast<uint64_t>(100 + step % 4));
    const std::span<const int32_t> all(ids);
    optimizer.zero_gradients();
    const double loss = pass.forward_backward({all.first(kTokens), all.subspan(1), {}},
                                              1.0 / kTokens, optimizer.gradients())
                            .loss /
                        kTokens;
    losses.loss.push_back(loss);
    losses.norm.push_back(optimizer.step(1e-3, step + 1));
  }
  return losses;
}

class CudaTraining : public ::testing::TestWithParam<std::tuple<std::string, DType>> {};

// Losses are means over 192 tokens of values near 6. f32: they begin some 1e-7 apart, and each
// update moves weights by up to lr whatever the gradient's size, so that a gradient whose sign
// rounding decides moves them apart: 1e-4 of the loss after 20 steps leaves an order of magnitude.
// bf16: a token's logits carry errors of 1 % (serving_test.cpp), its loss a few 1e-2, their mean
// over 192 tokens some 2e-3, and updates of rounded weights differ by a step of bf16 here and
// there.
TEST_P(CudaTraining, TwentyStepsFollowTheCpus) {
  Backend* cuda = cuda_backend_or_null();
  if (cuda == nullptr) GTEST_SKIP() << "no GPU";
  const auto& [name, dtype] = GetParam();
  const auto cpu = make_cpu_backend(2);
  const Losses ours = train(name, dtype, *cuda, 20), theirs = train(name, dtype, *cpu, 20);
  const double bound = dtype == DType::kF32 ? 1e-4 : 1e-2;
  double worst = 0, worst_norm = 0;
  for (size_t i = 0; i < ours.loss.size(); ++i) {
    const double difference = std::abs(ours.loss[i] / theirs.loss[i] - 1);
    EXPECT_LE(difference, bound) << "step " << i << ": " << ours.loss[i] << ", " << theirs.loss[i];
    worst = std::max(worst, difference);
    worst_norm = std::max(worst_norm, std::abs(ours.norm[i] / theirs.norm[i] - 1));
  }
  EXPECT_LT(theirs.loss.back(), 0.9 * theirs.loss.front());  // it learns
  EXPECT_LE(worst_norm, 10 * bound);
  fmt::print("{} {}: loss {:.4f} to {:.4f}, apart {:.1e}; gradient norms apart {:.1e}\n", name,
             dtype_name(dtype), ours.loss.front(), ours.loss.back(), worst, worst_norm);
  EXPECT_EQ(ours.loss, train(name, dtype, *cuda, 20).loss) << "repeated";
}

INSTANTIATE_TEST_SUITE_P(Tiny, CudaTraining,
                         ::testing::Combine(::testing::Values("llama", "qwen3", "neox"),
                                            ::testing::Values(DType::kF32, DType::kBF16)),
                         [](const auto& info) {
                           return std::get<0>(info.param) + "_" +
                                  std::string(dtype_name(std::get<1>(info.param)));
                         });

// A folder that is removed at the end.
class Folder {
 public:
  explicit Folder(const std::string& name)
      : path_(fs::temp_directory_path() / fmt::format("longgen-{}-{}", name, ::getpid())) {
    fs::remove_all(path_);
    fs::create_directories(path_);
  }
  ~Folder() { fs::remove_all(path_); }
  fs::path operator/(const std::string& name) const { return path_ / name; }

 private:
  fs::path path_;
};

train::Recipe recipe(const Folder& folder, const std::string& output) {
  train::Recipe r;
  r.output = folder / output;
  r.model.hidden_size = 64;
  r.model.num_layers = 2;
  r.model.num_heads = 2;
  r.model.num_kv_heads = 1;
  r.model.head_dim = 32;
  r.model.hybrid = "full=middle:1 sparse=local:2,sink:1,block:16";
  r.data.paths = {folder / "text.txt"};
  r.train.length = 128;
  r.train.batch_tokens = 256;
  r.train.steps = 12;
  r.train.dtype = "f32";
  return r;
}

// Runs up to `steps` steps in all; losses of those it made.
std::vector<double> run(const train::Recipe& r, Backend& backend, int64_t steps) {
  std::vector<double> losses;
  int64_t done = 0;
  train::SessionOptions options{.quiet = true, .stop_requested = [&] { return done >= steps; }};
  options.after_step = [&](const train::StepRecord& record) {
    losses.push_back(record.loss);
    done = record.step + 1;
  };
  train::run_recipe(r, backend, options);
  return losses;
}

TEST(CudaRun, MovesBetweenDevicesThroughItsCheckpoint) {
  Backend* cuda = cuda_backend_or_null();
  if (cuda == nullptr) GTEST_SKIP() << "no GPU";
  const auto cpu = make_cpu_backend(2);
  const Folder folder("cuda-run");
  std::ofstream text(folder / "text.txt");
  for (int i = 0; i < 3000; ++i) text << "line " << i % 97 << " of a text; ";
  text.close();
  const auto whole = run(recipe(folder, "cpu"), *cpu, 12);
  ASSERT_EQ(whole.size(), 12U);
  std::vector<double> moved;
  const train::Recipe r = recipe(folder, "moved");
  for (const int64_t steps : {4, 8, 12}) {
    Backend& backend = steps == 8 ? *cuda : *cpu;
    const auto part = run(r, backend, steps);
    ASSERT_EQ(part.size(), 4U) << "up to step " << steps;
    moved.insert(moved.end(), part.begin(), part.end());
  }
  // The same device repeats bit for bit; the other one's f32 differs by rounding (see above).
  for (size_t i = 0; i < 12; ++i) {
    EXPECT_NEAR(moved[i], whole[i], i < 4 ? 0 : 1e-4 * whole[i]) << "step " << i;
  }
  // Wholly on the GPU, interrupted or not: bit for bit.
  const auto on_gpu = run(recipe(folder, "gpu"), *cuda, 12);
  const train::Recipe again = recipe(folder, "again");
  auto resumed = run(again, *cuda, 5);
  const auto rest = run(again, *cuda, 12);
  resumed.insert(resumed.end(), rest.begin(), rest.end());
  EXPECT_EQ(resumed, on_gpu);
}

}  // namespace
}  // namespace longgen::testing
