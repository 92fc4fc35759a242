// Training on the GPU: memory policies change no bit, a run that is cut resumes bit for bit, and
// memory is as planned.
#include <gtest/gtest.h>

#include <filesystem>

#include "longgen/backend/stochastic_rounding.h"
#include "longgen/base/error.h"
#include "longgen/model/decoder.h"
#include "longgen/pattern/hybrid_spec.h"
#include "longgen/train/run_state.h"
#include "tests/cuda/cuda_parity.h"
#include "tests/cuda/training_run.h"
#include "tests/data/data_testing.h"

namespace longgen::testing {
namespace {

using model::KeptOutputs;
using model::Offload;

// Small, but with layers long enough that copies beside them overlap: 16 MB an activation.
model::ModelConfig small_config() {
  model::ModelConfig c;
  c.vocab_size = 512;
  c.hidden_size = 512;
  c.intermediate_size = 1024;
  c.num_layers = 7;
  c.num_heads = 8;
  c.num_kv_heads = 4;
  c.head_dim = c.rotary_dim = 64;
  c.max_position_embeddings = 16384;
  c.patterns = HybridSpec::parse("full=middle:4 sparse=local:8,sink:1")
                   .resolve(c.num_layers, c.num_kv_heads);
  return c;
}

std::vector<std::byte> bytes_on_host(Backend& backend, const model::ParameterSet& set) {
  std::vector<std::byte> bytes;
  for (const Tensor& x : set.tensors()) {
    const size_t begin = bytes.size();
    bytes.resize(begin + static_cast<size_t>(x.bytes()));
    backend.copy(Tensor(bytes.data() + begin, x.dtype(), x.shape()), x);
  }
  return bytes;
}

class CudaTrainingMemory : public ::testing::Test {
 protected:
  void SetUp() override {
    cuda_ = cuda_backend_or_null();
    if (cuda_ == nullptr) GTEST_SKIP() << "no GPU";
  }
  Backend& cuda() { return *cuda_; }

 private:
  Backend* cuda_ = nullptr;
};

TEST_F(CudaTrainingMemory, PoliciesChangeNoBit) {
  const model::ModelConfig config = small_config();
  constexpr int64_t kTokens = 16384;
  std::vector<model::TrainOptions> policies = {{.recompute = false}, {}};
  for (const KeptOutputs keep : {KeptOutputs::kFullLayers, KeptOutputs::kAllLayers}) {
    for (const Offload offload : {Offload::kNone, Offload::kOutputs, Offload::kInputsAndOutputs}) {
      policies.push_back({.keep_outputs = keep, .offload = offload});
    }
  }
  std::vector<double> first_losses;
  std::vector<std::byte> first_gradients, first_weights;
  for (model::TrainOptions& policy : policies) {
    policy.mlp_chunk = policy.loss_chunk = 8192;
    TrainingRun run(cuda(), config, kTokens, policy, /*bf16_state=*/true);
    std::vector<double> losses;
    for (int64_t update = 1; update <= 3; ++update) losses.push_back(run.step(update));
    const auto gradients = bytes_on_host(cuda(), run.optimizer.gradients());
    const auto weights = bytes_on_host(cuda(), run.optimizer.weights());
    if (first_losses.empty()) {
      first_losses = losses;
      first_gradients = gradients;
      first_weights = weights;
    }
    const auto which = &policy - policies.data();
    EXPECT_EQ(losses, first_losses) << "policy " << which;
    EXPECT_TRUE(gradients == first_gradients) << "policy " << which;
    EXPECT_TRUE(weights == first_weights) << "policy " << which;
  }
  EXPECT_LT(first_losses.back(), first_losses.front());
}

TEST_F(CudaTrainingMemory, ResumesBitEqual) {
  const data::ScratchFolder folder;
  for (const bool bf16_state : {false, true}) {
    const train::CheckpointStore store(folder.path() / (bf16_state ? "bf16" : "f32"), 1);
    const model::TrainOptions policy{.keep_outputs = KeptOutputs::kFullLayers};
    TrainingRun whole(cuda(), small_config(), 2048, policy, bf16_state);
    std::vector<double> losses;
    for (int64_t update = 1; update <= 6; ++update) {
      losses.push_back(whole.step(update));
      if (update == 3) store.save({.step = 3, .seed = 9}, whole.optimizer);
    }
    TrainingRun resumed(cuda(), small_config(), 2048, policy, bf16_state);
    ASSERT_EQ(store.load_newest(resumed.optimizer)->step, 3);
    for (int64_t update = 4; update <= 6; ++update) {
      EXPECT_EQ(resumed.step(update), losses[static_cast<size_t>(update - 1)]);
    }
    EXPECT_TRUE(bytes_on_host(cuda(), resumed.optimizer.master()) ==
                bytes_on_host(cuda(), whole.optimizer.master()));
    EXPECT_TRUE(bytes_on_host(cuda(), resumed.optimizer.second_moment()) ==
                bytes_on_host(cuda(), whole.optimizer.second_moment()));
  }
}

// Both compute in bf16 with f32 sums, in different orders, and round updates by the same random
// numbers: losses differ by roundings of 2^-9 averaged over 1,024 rows, and weights then drift
// apart within bf16's noise.
TEST_F(CudaTrainingMemory, LossesOfBf16StateFollowTheCpu) {
  const auto cpu = make_cpu_backend(0);
  model::ModelConfig config = small_config();
  config.hidden_size = 128;
  config.intermediate_size = 256;
  config.num_layers = 3;
  config.num_heads = 2;
  config.num_kv_heads = 1;
  config.patterns = HybridSpec::parse("full=middle:1 sparse=local:4,sink:1").resolve(3, 1);
  TrainingRun on_gpu(cuda(), config, 1024, {}, true), on_cpu(*cpu, config, 1024, {}, true);
  double worst = 0, first = 0, last = 0;
  for (int64_t update = 1; update <= 20; ++update) {
    const double expected = on_cpu.step(update), found = on_gpu.step(update);
    worst = std::max(worst, std::abs(found - expected) / expected);
    if (update == 1) first = expected;
    last = expected;
  }
  EXPECT_LT(worst, 2e-3);
  EXPECT_LT(last, first);
}

// Copies start after the work before them and hold back what waits for them, also when more have
// been started than the queue has events for.
TEST_F(CudaTrainingMemory, CopiesBesideKeepTheirOrder) {
  constexpr int64_t kCount = int64_t{1} << 22;
  Arena device("device", cuda().memory(), 3 * kCount * 4 + 256);
  Arena pinned("pinned", cuda().offload_memory(), kCount * 4);
  const Tensor x = device.allocate("x", DType::kF32, {kCount});
  const Tensor y = device.allocate("y", DType::kF32, {kCount});
  const Tensor one = device.allocate("one", DType::kF32, {kCount});
  const Tensor away = pinned.allocate("away", DType::kF32, {kCount});
  const std::vector<float> ones(kCount, 1.f);
  cuda().copy(one, Tensor::of(std::span(ones)));
  cuda().zero(x);
  for (int i = 0; i < 100; ++i) {
    cuda().add(x, x, one);
    cuda().copy_beside(away, x);
    const int64_t back = cuda().copy_beside(y, away);
    cuda().wait_for_copy(back);
    cuda().copy(x, y);
  }
  std::vector<float> found(kCount);
  cuda().copy(Tensor::of(std::span(found)), x);
  EXPECT_EQ(std::count(found.begin(), found.end(), 100.f), kCount);
}

TEST_F(CudaTrainingMemory, AdamWBf16FollowsTheReference) {
  for (const int64_t n : {1, 2, 7, 8, 9, 33, 100003}) {
    const auto size = static_cast<size_t>(n);
    std::vector<bf16> state[3];
    std::vector<double> gradient(size);
    std::vector<float> narrow(size);
    Rng rng(5, static_cast<uint64_t>(n));
    const double scales[] = {0.02, 1e-3, 1e-6};
    for (int k = 0; k < 3; ++k) {
      for (size_t i = 0; i < size; ++i) {
        const double x = scales[k] * rng.normal();
        state[k].push_back(bf16(static_cast<float>(k == 2 ? std::abs(x) : x)));
      }
    }
    for (size_t i = 0; i < size; ++i) {
      narrow[i] = static_cast<float>(1e-2 * rng.normal());
      gradient[i] = narrow[i];
    }
    const AdamW args{.lr = 1e-3, .weight_decay = 0.1, .step = 5, .gradient_scale = 0.5};
    const StochasticRounding rounding = rounding_of(7, 5, 2);
    std::vector<std::unique_ptr<DeviceMirror>> mirrors;
    std::vector<bf16> found[3] = {state[0], state[1], state[2]};
    for (auto& x : found) {
      mirrors.push_back(std::make_unique<DeviceMirror>(cuda(), Tensor::of(std::span(x))));
    }
    const DeviceMirror g(cuda(), Tensor::of(std::span(narrow)));
    cuda().adamw_step_bf16(mirrors[0]->tensor(), mirrors[1]->tensor(), mirrors[2]->tensor(),
                           g.tensor(), args, rounding);
    for (const auto& mirror : mirrors) mirror->download();
    make_reference_backend()->adamw_step_bf16(
        Tensor::of(std::span(state[0])), Tensor::of(std::span(state[1])),
        Tensor::of(std::span(state[2])), Tensor::of(std::span(gradient)), args, rounding);
    // As on the CPU: sums in f32 and f64 differ by some 2^-22 of their terms, which moves few
    // roundings, by a spacing.
    for (int k = 0; k < 3; ++k) {
      int64_t differing = 0;
      for (size_t i = 0; i < size; ++i) {
        if (found[k][i].bits == state[k][i].bits) continue;
        ++differing;
        const auto expected = static_cast<double>(state[k][i]);
        ASSERT_NEAR(static_cast<double>(found[k][i]), expected,
                    std::ldexp(std::abs(expected), -7) + std::ldexp(scales[k], -20))
            << k << " " << i;
      }
      EXPECT_LE(static_cast<double>(differing), 2e-3 * static_cast<double>(n) + 1);
    }
  }
}

// What a step takes on the device is what was planned, but for what kernels load when first run.
TEST_F(CudaTrainingMemory, IsAsPlanned) {
  const model::ModelConfig config = small_config();
  const model::TrainOptions policy{.keep_outputs = KeptOutputs::kFullLayers};
  {
    TrainingRun warm(cuda(), config, 256, policy, true);
    warm.step(1);
  }
  const int64_t before = cuda().memory().available_bytes();
  TrainingRun run(cuda(), config, 65536, policy, true);
  for (int64_t update = 1; update <= 2; ++update) run.step(update);
  const auto used = static_cast<double>(before - cuda().memory().available_bytes());
  const auto planned =
      static_cast<double>(run.optimizer.bytes() + run.pass.arena().high_water_bytes());
  EXPECT_NEAR(used, planned, 0.02 * planned);
}

}  // namespace
}  // namespace longgen::testing
