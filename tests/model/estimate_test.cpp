// Passes over the meta backend and no memory: FLOPs and bytes before anything runs.
#include <gtest/gtest.h>

#include "longgen/model/decoder.h"
#include "tests/testing/golden_model.h"
#include "tests/testing/paged_store.h"

namespace longgen::model {
namespace {

using longgen::testing::GoldenModel;

class Estimate : public ::testing::TestWithParam<std::string> {};

TEST_P(Estimate, MetaCountsWhatTheFormulaSays) {
  const GoldenModel golden(GetParam());
  NoMemory nothing;
  const auto meta = make_meta_backend(DType::kBF16, nullptr);
  const ParameterSet weights("weights", golden.config, DType::kBF16, nothing);
  const ParameterSet gradients("gradients", golden.config, DType::kF32, nothing);
  const auto tokens = static_cast<int64_t>(golden.ids.size());
  const FlopCount formula = count_flops(golden.config, tokens, golden.documents);
  const TrainOptions options{.recompute = false, .mlp_chunk = 19, .loss_chunk = 23};
  TrainingPass pass(golden.config, weights, *meta, tokens, options, nothing);

  meta->reset();
  pass.evaluate(golden.sequence());
  EXPECT_DOUBLE_EQ(meta->counts().flops, formula.forward);
  meta->reset();
  pass.forward_backward(golden.sequence(), 1, gradients);
  EXPECT_DOUBLE_EQ(meta->counts().flops, formula.train);
  EXPECT_DOUBLE_EQ(meta->counts().dense_flops, formula.train_dense);
  EXPECT_LT(formula.forward, formula.train);

  // Recomputation runs all but the last layer's forward again, without the down projections.
  TrainingPass recomputing(golden.config, weights, *meta, tokens,
                           {.recompute = true, .mlp_chunk = 19, .loss_chunk = 23}, nothing);
  meta->reset();
  recomputing.forward_backward(golden.sequence(), 1, gradients);
  EXPECT_GT(meta->counts().flops, formula.train);
  EXPECT_LT(meta->counts().flops, formula.train + formula.forward);
}

TEST_P(Estimate, IncrementalChunksCountTheSame) {
  const GoldenModel golden(GetParam());
  NoMemory nothing;
  const auto meta = make_meta_backend(DType::kF32, nullptr);
  const ParameterSet weights("weights", golden.config, DType::kF32, nothing);
  const auto tokens = static_cast<int64_t>(golden.ids.size());
  longgen::testing::PagedStore store(golden.config, DType::kF32, 1, tokens);
  IncrementalPass pass(golden.config, weights, *meta, 17, 17, tokens, nothing);
  meta->reset();
  for (int64_t begin = 0; begin < tokens; begin += 17) {
    const int64_t count = std::min<int64_t>(17, tokens - begin);
    store.extend(0, count);
    const SequenceChunk chunk{
        0, begin,
        std::span(golden.ids).subspan(static_cast<size_t>(begin), static_cast<size_t>(count))};
    std::vector<int64_t> rows;
    for (int64_t i = 0; i < count; ++i) rows.push_back(i);
    pass.forward({&chunk, 1}, store, rows);
  }
  EXPECT_DOUBLE_EQ(meta->counts().flops, count_flops(golden.config, tokens).forward);
}

INSTANTIATE_TEST_SUITE_P(Models, Estimate, ::testing::ValuesIn(longgen::testing::golden_cases()),
                         [](const auto& test) { return test.param; });

// Llama-2-7B at 128K in bf16, known before any memory is taken.
TEST(EstimateMemory, HoldsLayerInputsAndOneLayer) {
  ModelConfig c;
  c.vocab_size = 32000;
  c.hidden_size = 4096;
  c.intermediate_size = 11008;
  c.num_layers = c.num_heads = c.num_kv_heads = 32;
  c.head_dim = c.rotary_dim = 128;
  c.max_position_embeddings = 131072;
  set_full_attention(c);
  NoMemory nothing;
  const auto meta = make_meta_backend(DType::kBF16, nullptr);
  const ParameterSet weights("weights", c, DType::kBF16, nothing);
  EXPECT_EQ(parameter_count(c), 6738415616);  // as published
  EXPECT_EQ(weights.bytes(), 2 * 6738415616);
  constexpr int64_t kTokens = 131072;
  const TrainingPass pass(c, weights, *meta, kTokens, {}, nothing);
  // 33 layer inputs, and of one layer: q, k, v, out, mid (which the normed input comes before and
  // the gradient of out after), the gradient of the stream and of the norm, dq, dk, dv; half a
  // gigabyte for the chunks and statistics.
  const int64_t stream = kTokens * c.hidden_size * 2;
  EXPECT_LE(pass.arena().high_water_bytes(), (33 + 10) * stream + (int64_t{1} << 29));
  EXPECT_GE(pass.arena().high_water_bytes(), (33 + 10) * stream);
  const TrainingPass keeping(c, weights, *meta, 4096, {.recompute = false}, nothing);
  const TrainingPass recomputing(c, weights, *meta, 4096, {.recompute = true}, nothing);
  EXPECT_GT(keeping.arena().high_water_bytes(), 3 * recomputing.arena().high_water_bytes());
}

int64_t bytes_of(const TrainingPass& pass, const std::string& name, bool offloaded = false) {
  for (const MemoryItem& item : pass.memory_items()) {
    if (item.name == name && item.offloaded == offloaded) return item.bytes;
  }
  return 0;
}

// What keeping and offloading cost and save, by name.
TEST(EstimateMemory, NamesWhatIsKeptAndOffloaded) {
  const GoldenModel golden("hybrid_sink_window");
  const ModelConfig& c = golden.config;
  int64_t full_layers = 0;
  for (const AttentionPattern& pattern : c.patterns) full_layers += pattern.is_full();
  ASSERT_TRUE(full_layers > 0 && full_layers < c.num_layers);
  NoMemory nothing;
  const auto meta = make_meta_backend(DType::kBF16, nullptr);
  const ParameterSet weights("weights", c, DType::kBF16, nothing);
  constexpr int64_t kTokens = 4096;
  const auto plan = [&](const TrainOptions& options) {
    return std::make_unique<TrainingPass>(c, weights, *meta, kTokens, options, nothing);
  };
  const int64_t stream = kTokens * c.hidden_size * 2;
  const int64_t output = kTokens * c.num_heads * (c.head_dim * 2 + 4);

  const auto plain = plan({});
  EXPECT_EQ(bytes_of(*plain, "layer inputs"), (c.num_layers + 1) * stream);
  EXPECT_EQ(bytes_of(*plain, "kept attention outputs"), 0);
  int64_t sum = 0;
  for (const MemoryItem& item : plain->memory_items()) sum += item.bytes;
  EXPECT_EQ(sum, plain->arena().high_water_bytes());

  const auto full = plan({.keep_outputs = KeptOutputs::kFullLayers});
  EXPECT_EQ(bytes_of(*full, "kept attention outputs"), full_layers * output);
  const auto more = plan({.keep_outputs = KeptOutputs::kFullLayers, .keep_sparse = 1});
  EXPECT_EQ(bytes_of(*more, "kept attention outputs"), (full_layers + 1) * output);
  // Kept for all, the output needs no other place.
  const auto all = plan({.keep_outputs = KeptOutputs::kAllLayers});
  EXPECT_EQ(all->arena().high_water_bytes() - plain->arena().high_water_bytes(),
            (c.num_layers - 1) * output);

  const auto away =
      plan({.keep_outputs = KeptOutputs::kAllLayers, .offload = Offload::kInputsAndOutputs});
  EXPECT_EQ(bytes_of(*away, "layer inputs"), 2 * stream);
  EXPECT_EQ(bytes_of(*away, "layer inputs", true), (c.num_layers - 1) * stream);
  EXPECT_EQ(bytes_of(*away, "kept attention outputs", true),
            (c.num_layers - 2) * kTokens * c.num_heads * c.head_dim * 2);
}

TEST(EstimateFlops, FollowTheUnmaskedPairs) {
  GoldenModel golden("hybrid_sink_window");
  ModelConfig full = golden.config;
  set_full_attention(full, 16);
  const FlopCount hybrid = count_flops(golden.config, 4096), dense = count_flops(full, 4096);
  EXPECT_EQ(hybrid.forward_dense, dense.forward);
  EXPECT_EQ(dense.forward, dense.forward_dense);
  EXPECT_LT(hybrid.forward, 0.65 * dense.forward);  // two of four layers keep full attention
}

}  // namespace
}  // namespace longgen::model
