// A run of SmolLM2-135M's size that is cut and goes on from its checkpoint: bit for bit the one
// that was not. Takes 5 GB of disk and some 20 s: runs with LONGGEN_LONG_TESTS=1.
#include <gtest/gtest.h>

#include "longgen/pattern/hybrid_spec.h"
#include "longgen/train/run_state.h"
#include "tests/cuda/cuda_parity.h"
#include "tests/cuda/device_values.h"
#include "tests/cuda/tiny_models.h"
#include "tests/cuda/training_run.h"
#include "tests/data/data_testing.h"

namespace longgen::testing {
namespace {

constexpr int64_t kTokens = 8192, kVocabulary = 49152;

model::ModelConfig smollm2_135m() {
  model::ModelConfig c;
  c.vocab_size = kVocabulary;
  c.hidden_size = 576;
  c.intermediate_size = 1536;
  c.num_layers = 30;
  c.num_heads = 9;
  c.num_kv_heads = 3;
  c.head_dim = c.rotary_dim = 64;
  c.max_position_embeddings = kTokens;
  c.tie_word_embeddings = true;
  c.patterns =
      HybridSpec::parse("full=middle:10 sparse=sink-window").resolve(c.num_layers, c.num_kv_heads);
  return c;
}

// Other tokens in every update.
double step(TrainingRun& run, int64_t update) {
  run.ids = random_tokens(kTokens + 1, kVocabulary, static_cast<uint64_t>(update));
  return run.step(update);
}

int64_t differing(const model::ParameterSet& a, const model::ParameterSet& b) {
  int64_t count = 0;
  for (size_t i = 0; i < a.tensors().size(); ++i) {
    const Tensor &x = a.tensors()[i], &y = b.tensors()[i];
    count += differing_words(x.raw(), y.raw(), x.bytes());
  }
  return count;
}

TEST(CudaLongResume, IsBitEqualAtSmolLm2sSize) {
  Backend* cuda = cuda_backend_or_null();
  if (cuda == nullptr) GTEST_SKIP() << "no GPU";
  if (!long_tests()) GTEST_SKIP() << "runs with LONGGEN_LONG_TESTS=1";
  const data::ScratchFolder folder;
  const model::ModelConfig config = smollm2_135m();
  for (const bool bf16_state : {false, true}) {
    const train::CheckpointStore store(folder.path() / (bf16_state ? "bf16" : "f32"), 1);
    TrainingRun whole(*cuda, config, kTokens, {}, bf16_state);
    std::vector<double> losses;
    for (int64_t update = 1; update <= 4; ++update) {
      losses.push_back(step(whole, update));
      if (update == 2) store.save({.step = 2, .seed = 9}, whole.optimizer);
    }
    TrainingRun resumed(*cuda, config, kTokens, {}, bf16_state);
    ASSERT_EQ(store.load_newest(resumed.optimizer)->step, 2);
    for (int64_t update = 3; update <= 4; ++update) {
      EXPECT_EQ(step(resumed, update), losses[static_cast<size_t>(update - 1)]);
    }
    const train::Optimizer &a = whole.optimizer, &b = resumed.optimizer;
    EXPECT_EQ(differing(a.master(), b.master()), 0);
    EXPECT_EQ(differing(a.weights(), b.weights()), 0);
    EXPECT_EQ(differing(a.second_moment(), b.second_moment()), 0);
  }
}

}  // namespace
}  // namespace longgen::testing
