// What training passes promise, on the reference: gradients, recomputation, chunks, padding,
// memory.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "longgen/model/decoder.h"
#include "tests/testing/error_of.h"
#include "tests/testing/finite_difference.h"
#include "tests/testing/golden_model.h"
#include "tests/testing/poisoned_memory.h"

namespace longgen::model {
namespace {

using longgen::testing::GoldenModel;
using longgen::testing::PoisonedMemory;
using longgen::testing::relative_l2;
using longgen::testing::to_doubles;

// Loss and gradients of one forward_backward.
struct Result {
  double loss = 0;
  std::vector<std::vector<double>> gradients;
  bool operator==(const Result&) const = default;
};

struct Fixture {
  explicit Fixture(const std::string& name) : golden(name) {
    weights = golden.weights(DType::kF64, memory);
    tokens = static_cast<int64_t>(golden.ids.size());
  }

  Result run(const TrainOptions& options, const PackedSequence& sequence, int64_t max_tokens = 0) {
    TrainingPass pass(golden.config, *weights, *backend, std::max(max_tokens, tokens), options,
                      memory);
    ParameterSet gradients("gradients", golden.config, DType::kF64, plain_memory);
    Result result;
    result.loss = pass.forward_backward(sequence, 0.125, gradients).loss;
    for (const Tensor& g : gradients.tensors()) result.gradients.push_back(to_doubles(g));
    return result;
  }
  Result run(const TrainOptions& options) { return run(options, golden.sequence()); }

  GoldenModel golden;
  HostMemory plain_memory;
  PoisonedMemory memory;
  std::unique_ptr<Backend> backend = make_reference_backend();
  std::unique_ptr<ParameterSet> weights;
  int64_t tokens;
};

class Training : public ::testing::TestWithParam<std::string> {};

TEST_P(Training, RecomputationChangesNoBit) {
  Fixture f(GetParam());
  const Result kept = f.run({.recompute = false, .mlp_chunk = 19, .loss_chunk = 23});
  const Result recomputed = f.run({.recompute = true, .mlp_chunk = 19, .loss_chunk = 23});
  EXPECT_TRUE(kept == recomputed);
  const Result half =
      f.run({.recompute = true, .mlp_chunk = 19, .loss_chunk = 23, .recompute_attention = false});
  EXPECT_TRUE(kept == half);
  EXPECT_GT(kept.loss, 0);
}

// Where attention's outputs and the layers' inputs are kept changes no bit, after an evaluation and
// in a second step neither.
TEST_P(Training, KeepingAndOffloadingChangeNoBit) {
  Fixture f(GetParam());
  const TrainOptions plain{.mlp_chunk = 19, .loss_chunk = 23};
  const Result expected = f.run(plain);
  for (const KeptOutputs keep :
       {KeptOutputs::kNone, KeptOutputs::kFullLayers, KeptOutputs::kAllLayers}) {
    for (const Offload offload : {Offload::kNone, Offload::kOutputs, Offload::kInputsAndOutputs}) {
      TrainOptions options = plain;
      options.keep_outputs = keep;
      options.keep_sparse = offload == Offload::kOutputs ? 1 : 0;
      options.offload = offload;
      TrainingPass pass(f.golden.config, *f.weights, *f.backend, f.tokens, options, f.memory,
                        &f.memory);
      for (int step = 0; step < 2; ++step) {
        pass.evaluate(f.golden.sequence());
        ParameterSet gradients("gradients", f.golden.config, DType::kF64, f.plain_memory);
        Result found;
        found.loss = pass.forward_backward(f.golden.sequence(), 0.125, gradients).loss;
        for (const Tensor& g : gradients.tensors()) found.gradients.push_back(to_doubles(g));
        EXPECT_TRUE(found == expected) << static_cast<int>(keep) << static_cast<int>(offload);
      }
    }
  }
  EXPECT_THROW(f.run({.recompute = false, .offload = Offload::kOutputs}), Error);
}

// Chunks change the order of sums over rows alone.
TEST_P(Training, ChunkSizesAgree) {
  Fixture f(GetParam());
  const Result whole = f.run({.mlp_chunk = 4096, .loss_chunk = 4096});
  const Result ones = f.run({.mlp_chunk = 1, .loss_chunk = 7});
  EXPECT_NEAR(ones.loss, whole.loss, 1e-12 * whole.loss);
  for (size_t i = 0; i < whole.gradients.size(); ++i) {
    EXPECT_LE(relative_l2(ones.gradients[i], whole.gradients[i]), 1e-12)
        << f.weights->specs()[i].name;
  }
}

// Along a random direction of every parameter, all its elements at once.
TEST_P(Training, GradientsAreFiniteDifferences) {
  Fixture f(GetParam());
  const Result result = f.run({.mlp_chunk = 37, .loss_chunk = 29});
  TrainingPass pass(f.golden.config, *f.weights, *f.backend, f.tokens, {}, f.memory);
  constexpr double h = 1e-5;
  for (size_t i = 0; i < result.gradients.size(); ++i) {
    const Tensor& w = f.weights->tensors()[i];
    const std::vector<double> kept = to_doubles(w);
    const longgen::testing::RandomTensor direction({w.numel()}, 100 + i);
    const auto loss_at = [&](double step) {
      for (size_t j = 0; j < kept.size(); ++j) {
        w.data<double>()[j] = kept[j] + step * direction.values()[j];
      }
      return 0.125 * pass.evaluate(f.golden.sequence()).loss;
    };
    const double slope = (loss_at(h) - loss_at(-h)) / (2 * h);
    loss_at(0);
    const double expected = longgen::testing::dot(result.gradients[i], direction.values());
    // Third derivatives along a direction of norm sqrt(n) make h^2 count for up to some 1e-6; a
    // kink of ReLU within h as much.
    EXPECT_NEAR(slope, expected, 2e-5 * std::max(1.0, std::abs(expected)))
        << f.weights->specs()[i].name;
  }
}

TEST_P(Training, FewerTokensThanThePassWasMadeFor) {
  Fixture f(GetParam());
  if (f.golden.config.position == PositionKind::kLearned) {
    EXPECT_THROW(f.run({}, f.golden.sequence(), 1000), Error);  // more than it has positions
    return;
  }
  const TrainOptions options{.mlp_chunk = 19, .loss_chunk = 23};
  EXPECT_TRUE(f.run(options) == f.run(options, f.golden.sequence(), f.tokens + 45));
}

INSTANTIATE_TEST_SUITE_P(Models, Training,
                         ::testing::Values("llama_bias", "smollm2_like", "qwen3",
                                           "gpt_neox_parallel", "gpt_neox_sequential", "opt",
                                           "hybrid_strided_heads", "isolated"),
                         [](const auto& test) { return test.param; });

TEST(TrainingPadding, PoisonedIdsChangeNothing) {
  Fixture f("isolated");
  std::vector<int32_t> poisoned = f.golden.ids;
  int64_t padding = 0;
  for (size_t i = 0; i < poisoned.size(); ++i) {
    if (f.golden.is_real(static_cast<int64_t>(i))) continue;
    poisoned[i] = i % 2 ? -77 : std::numeric_limits<int32_t>::max();
    ++padding;
  }
  ASSERT_GT(padding, 10);
  const Result clean = f.run({}),
               dirty = f.run({}, {poisoned, f.golden.labels, f.golden.documents});
  EXPECT_TRUE(clean == dirty);

  std::vector<int32_t> labels = f.golden.labels;
  for (size_t i = 0; i < labels.size(); ++i) {
    if (!f.golden.is_real(static_cast<int64_t>(i))) labels[i] = 1;
  }
  EXPECT_THROW(f.run({}, {f.golden.ids, labels, f.golden.documents}), Error);
}

// Isolated documents are the documents alone: the losses of each, and their gradients' sum.
TEST(TrainingDocuments, AreEachAsIfAlone) {
  Fixture f("isolated");
  TrainingPass pass(f.golden.config, *f.weights, *f.backend, f.tokens, {}, f.memory);
  std::vector<float> packed(f.golden.ids.size());
  pass.evaluate(f.golden.sequence(), packed);
  for (const DocumentRange& d : f.golden.documents) {
    const auto begin = static_cast<size_t>(d.row_begin), count = static_cast<size_t>(d.row_count);
    std::vector<float> alone(count);
    pass.evaluate({std::span(f.golden.ids).subspan(begin, count),
                   std::span(f.golden.labels).subspan(begin, count),
                   {}},
                  alone);
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), packed.begin() + d.row_begin));
  }
}

TEST(TrainingGradients, AccumulateOverCalls) {
  Fixture f("smollm2_like");
  TrainingPass pass(f.golden.config, *f.weights, *f.backend, f.tokens, {}, f.memory);
  ParameterSet gradients("gradients", f.golden.config, DType::kF64, f.plain_memory);
  pass.forward_backward(f.golden.sequence(), 0.125, gradients);
  pass.forward_backward(f.golden.sequence(), 0.25, gradients);
  const Result once = f.run({});
  for (size_t i = 0; i < once.gradients.size(); ++i) {
    auto three = once.gradients[i];
    for (double& g : three) g *= 3;
    EXPECT_LE(relative_l2(to_doubles(gradients.tensors()[i]), three), 1e-13);
  }
}

TEST(TrainingGradients, FrozenParametersGetNone) {
  Fixture f("llama_bias");
  const Result all = f.run({});
  const std::vector<std::string> frozen = {
      "model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight",
      "model.layers.1.mlp.down_proj.bias", "model.layers.1.input_layernorm.weight"};
  for (const auto& name : frozen) f.weights->set_trainable(name, false);
  const Result some = f.run({});
  EXPECT_EQ(some.loss, all.loss);
  for (size_t i = 0; i < all.gradients.size(); ++i) {
    const std::string& name = f.weights->specs()[i].name;
    if (std::find(frozen.begin(), frozen.end(), name) == frozen.end()) {
      EXPECT_EQ(some.gradients[i], all.gradients[i]) << name;
    } else {
      EXPECT_EQ(some.gradients[i], std::vector<double>(all.gradients[i].size(), 0)) << name;
    }
  }
}

TEST(TrainingErrors, NameTheRowOrTheLimit) {
  Fixture f("isolated");
  const auto message = [&](const PackedSequence& sequence) {
    return testing::error_of([&] { f.run({}, sequence); });
  };
  using ::testing::HasSubstr;
  std::vector<int32_t> ids = f.golden.ids, labels = f.golden.labels;
  ids[3] = 61;
  EXPECT_THAT(message({ids, labels, f.golden.documents}), HasSubstr("token id 61 at row 3"));
  labels[5] = -2;
  EXPECT_THAT(message({f.golden.ids, labels, f.golden.documents}), HasSubstr("label -2 at row 5"));
  std::vector<DocumentRange> documents = f.golden.documents;
  documents[1].row_begin += 3;
  EXPECT_THAT(message({f.golden.ids, f.golden.labels, documents}),
              HasSubstr("no multiple of the block size 16"));
  documents = f.golden.documents;
  documents[1].row_count = 1000;
  EXPECT_THAT(message({f.golden.ids, f.golden.labels, documents}), HasSubstr("within 128 rows"));
  const std::vector<int32_t> long_ids(200, 1), long_labels(200, -1);
  EXPECT_THAT(message({long_ids, long_labels, {}}), HasSubstr("200 rows are given"));
}

}  // namespace
}  // namespace longgen::model
