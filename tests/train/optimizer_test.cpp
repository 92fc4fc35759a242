#include "longgen/train/optimizer.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "longgen/base/error.h"
#include "tests/train/train_testing.h"

namespace longgen::train {
namespace {

constexpr OptimizerOptions kOptions{
    .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .clip = 1};

void fill_gradients(const Optimizer& optimizer, uint64_t stream, float scale) {
  Rng rng(5, stream);
  for (const Tensor& tensor : optimizer.gradients().tensors()) {
    for (int64_t i = 0; i < tensor.numel(); ++i) {
      tensor.data<float>()[i] = scale * static_cast<float>(rng.normal());
    }
  }
}

std::vector<std::vector<double>> values_of(const model::ParameterSet& set) {
  std::vector<std::vector<double>> values;
  for (const Tensor& t : set.tensors()) {
    values.emplace_back(t.data<float>(), t.data<float>() + t.numel());
  }
  return values;
}

// AdamW written down once more, in fp64: decay of matrices only, clipping by the norm over all.
struct PlainAdamW {
  std::vector<std::vector<double>> weights, m, v;

  double step(const model::ParameterSet& gradients, double lr, int64_t update) {
    const auto g = values_of(gradients);
    double norm = 0;
    for (const auto& tensor : g) {
      for (const double x : tensor) norm += x * x;
    }
    norm = std::sqrt(norm);
    const double clip = norm > 1 ? 1 / norm : 1;
    for (size_t t = 0; t < g.size(); ++t) {
      const double decay = gradients.specs()[t].shape.size() == 2 ? 0.1 : 0;
      for (size_t i = 0; i < g[t].size(); ++i) {
        const double x = g[t][i] * clip;
        m[t][i] = 0.9 * m[t][i] + 0.1 * x;
        v[t][i] = 0.95 * v[t][i] + 0.05 * x * x;
        const double mean = m[t][i] / (1 - std::pow(0.9, update));
        const double square = v[t][i] / (1 - std::pow(0.95, update));
        weights[t][i] -= lr * (mean / (std::sqrt(square) + 1e-8) + decay * weights[t][i]);
      }
    }
    return norm;
  }
};

TEST(Optimizer, FollowsAPlainLoop) {
  const auto backend = make_cpu_backend(2);
  Optimizer optimizer(tiny_config(), DType::kF32, *backend, kOptions, backend->memory());
  model::initialize(tiny_config(), 3, optimizer.master());
  PlainAdamW plain{values_of(optimizer.master()), values_of(optimizer.first_moment()),
                   values_of(optimizer.first_moment())};
  for (int64_t update = 1; update <= 6; ++update) {
    // Half of the updates are clipped, half are not.
    fill_gradients(optimizer, static_cast<uint64_t>(update), update % 2 ? 0.1f : 1e-4f);
    const double norm = optimizer.step(1e-2, update);
    const double expected = plain.step(optimizer.gradients(), 1e-2, update);
    EXPECT_NEAR(norm, expected, 1e-6 * expected);
    EXPECT_EQ(expected > 1, update % 2 == 1);
  }
  const auto found = values_of(optimizer.master());
  for (size_t t = 0; t < found.size(); ++t) {
    for (size_t i = 0; i < found[t].size(); ++i) {
      // Six updates of at most 1e-2 each, every one rounded to f32 in a handful of places.
      ASSERT_NEAR(found[t][i], plain.weights[t][i], 1e-6) << optimizer.master().specs()[t].name;
    }
  }
}

TEST(Optimizer, Bf16WeightsAreTheRoundedMaster) {
  const auto backend = make_cpu_backend(2);
  Optimizer optimizer(tiny_config(), DType::kBF16, *backend, kOptions, backend->memory());
  model::initialize(tiny_config(), 3, optimizer.master());
  optimizer.publish_master();
  const auto expect_rounded = [&] {
    for (size_t t = 0; t < optimizer.master().tensors().size(); ++t) {
      const Tensor& master = optimizer.master().tensors()[t];
      const Tensor& weights = optimizer.weights().tensors()[t];
      for (int64_t i = 0; i < master.numel(); ++i) {
        ASSERT_EQ(weights.data<bf16>()[i].bits, bf16(master.data<float>()[i]).bits);
      }
    }
  };
  expect_rounded();
  const auto before = bytes_of(optimizer.master());
  // Steps of 1e-6 vanish in bf16 but add up in the master.
  for (int64_t update = 1; update <= 3; ++update) {
    fill_gradients(optimizer, 9, 1);
    optimizer.step(1e-6, update);
    expect_rounded();
  }
  EXPECT_NE(bytes_of(optimizer.master()), before);
}

TEST(Optimizer, LeavesFrozenParametersAlone) {
  const auto backend = make_cpu_backend(2);
  Optimizer optimizer(tiny_config(), DType::kF32, *backend, kOptions, backend->memory());
  model::initialize(tiny_config(), 3, optimizer.master());
  const std::string frozen = "model.layers.1.mlp.up_proj.weight";
  // The optimizer hands its weights out read-only: nothing freezes them yet while it runs.
  const_cast<model::ParameterSet&>(optimizer.weights()).set_trainable(frozen, false);
  const auto value = [&](std::string_view name) {
    return optimizer.master()[name].data<float>()[7];
  };
  const float before = value(frozen), other = value("model.layers.1.mlp.down_proj.weight");
  fill_gradients(optimizer, 1, 1);
  optimizer.step(1e-2, 1);
  EXPECT_EQ(value(frozen), before);  // weight decay would have shrunk it
  EXPECT_NE(value("model.layers.1.mlp.down_proj.weight"), other);
}

TEST(Optimizer, RefusesGradientsThatAreNotFinite) {
  const auto backend = make_cpu_backend(2);
  Optimizer optimizer(tiny_config(), DType::kF32, *backend, kOptions, backend->memory());
  model::initialize(tiny_config(), 3, optimizer.master());
  const auto before = bytes_of(optimizer.master());
  fill_gradients(optimizer, 1, 1);
  optimizer.gradients()["model.layers.1.mlp.up_proj.weight"].data<float>()[7] =
      std::numeric_limits<float>::quiet_NaN();
  try {
    optimizer.step(1e-2, 1);
    FAIL();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), ::testing::HasSubstr("model.layers.1.mlp.up_proj.weight"));
  }
  EXPECT_EQ(bytes_of(optimizer.master()), before);
}

}  // namespace
}  // namespace longgen::train
