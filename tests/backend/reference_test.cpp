// The reference against formulas written another way, and what it refuses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "longgen/backend/backend.h"
#include "tests/testing/error_of.h"
#include "tests/testing/finite_difference.h"

namespace longgen {
namespace {

using testing::error_of;
using ::testing::HasSubstr;
using testing::RandomTensor;

// softmax(mask(scale q k^T)) v with a full matrix of scores and the element mask.
std::vector<double> dense_attention(const RandomTensor& q, const RandomTensor& k,
                                    const RandomTensor& v, const AttentionPattern& pattern,
                                    double scale) {
  const int64_t rows = q.tensor().dim(0), heads = q.tensor().dim(1), dim = q.tensor().dim(2);
  const int64_t kv_heads = k.tensor().dim(1);
  std::vector<double> out(q.values().size());
  for (int64_t h = 0; h < heads; ++h) {
    const int64_t g = h / (heads / kv_heads);
    for (int64_t i = 0; i < rows; ++i) {
      std::vector<double> weight(static_cast<size_t>(rows));
      double sum = 0;
      for (int64_t j = 0; j < rows; ++j) {
        if (!pattern.sees(i, j, g)) continue;
        double score = 0;
        for (int64_t c = 0; c < dim; ++c) {
          score += q.values()[static_cast<size_t>((i * heads + h) * dim + c)] *
                   k.values()[static_cast<size_t>((j * kv_heads + g) * dim + c)];
        }
        sum += weight[static_cast<size_t>(j)] = std::exp(scale * score);
      }
      for (int64_t c = 0; c < dim; ++c) {
        double value = 0;
        for (int64_t j = 0; j < rows; ++j) {
          value += weight[static_cast<size_t>(j)] / sum *
                   v.values()[static_cast<size_t>((j * kv_heads + g) * dim + c)];
        }
        out[static_cast<size_t>((i * heads + h) * dim + c)] = value;
      }
    }
  }
  return out;
}

// Keys go page by page into a shuffled cache; queries run in chunks.
TEST(Reference, PagedChunksAreDenseAttentionBitForBit) {
  constexpr int64_t kRows = 90, kHeads = 4, kKvHeads = 2, kDim = 4, kBlock = 16, kPages = 9;
  AttentionPattern pattern{.block_size = kBlock, .sink_blocks = 1, .local_blocks = 2, .stride = 3};
  pattern.offsets = {0, 2};
  RandomTensor q({kRows, kHeads, kDim}, 1), k({kRows, kKvHeads, kDim}, 2);
  RandomTensor v({kRows, kKvHeads, kDim}, 3);
  const auto backend = make_reference_backend();
  std::vector<double> first;
  for (const int64_t chunk : {kRows, int64_t{1}, int64_t{17}, int64_t{32}}) {
    // Pages [head, token, channel], unused ones poisoned.
    std::vector<double> keys(kPages * kKvHeads * kBlock * kDim,
                             std::numeric_limits<double>::quiet_NaN());
    auto values = keys;
    const std::vector<int32_t> table = {7, 2, 0, 5, 8, 3};
    RandomTensor out({kRows, kHeads, kDim}, 4), lse({kHeads, kRows}, 5);
    for (int64_t begin = 0; begin < kRows; begin += chunk) {
      const int64_t count = std::min(chunk, kRows - begin);
      KvView kv{.keys = keys.data(),
                .values = values.data(),
                .page_stride = kKvHeads * kBlock * kDim,
                .head_stride = kBlock * kDim,
                .token_stride = kDim,
                .block_table = table.data(),
                .block_table_size = static_cast<int64_t>(table.size()),
                .length = begin + count};
      backend->kv_write(kv, DType::kF64, kBlock, begin, k.tensor().slice(0, begin, count),
                        v.tensor().slice(0, begin, count));
      const AttentionSequence sequence{
          .row_begin = begin, .row_count = count, .first_position = begin, .kv = kv};
      backend->attention_forward({.out = out,
                                  .lse = lse,
                                  .q = q,
                                  .sequences = {&sequence, 1},
                                  .kv_dtype = DType::kF64,
                                  .kv_heads = kKvHeads,
                                  .pattern = &pattern,
                                  .scale = 0.5});
    }
    if (first.empty()) {
      first = out.values();
      const auto dense = dense_attention(q, k, v, pattern, 0.5);
      for (size_t i = 0; i < dense.size(); ++i) ASSERT_NEAR(first[i], dense[i], 1e-13);
    }
    EXPECT_EQ(out.values(), first) << "chunks of " << chunk;
  }
}

TEST(Reference, RefusesAReleasedBlockThatAQuerySees) {
  const auto backend = make_reference_backend();
  RandomTensor q({1, 1, 4}, 1), out({1, 1, 4}, 2), pages({2, 16, 4}, 3);
  const std::vector<int32_t> table = {-1, 1};
  const AttentionSequence sequence{.row_count = 1,
                                   .first_position = 20,
                                   .kv = {.keys = pages.values().data(),
                                          .values = pages.values().data(),
                                          .page_stride = 64,
                                          .head_stride = 64,
                                          .token_stride = 4,
                                          .block_table = table.data(),
                                          .block_table_size = 2,
                                          .length = 21}};
  AttentionPattern pattern{.block_size = 16, .local_blocks = 1};
  AttentionForward args{.out = out,
                        .q = q,
                        .sequences = {&sequence, 1},
                        .kv_dtype = DType::kF64,
                        .kv_heads = 1,
                        .pattern = &pattern,
                        .scale = 1};
  backend->attention_forward(args);  // block 0 is not seen
  pattern.local_blocks = 2;
  EXPECT_THAT(error_of([&] { backend->attention_forward(args); }),
              HasSubstr("block 0 has been released"));
}

TEST(Reference, CopyRoundsToNearestEvenOnce) {
  const auto backend = make_reference_backend();
  // 1 + 2^-8 lies between two bf16; a hair above it must go up, although rounding to f32 first
  // would lose the hair and then go to even, down.
  std::vector<double> in = {1.0, 1 + 0x1p-8, 1 + 0x1p-8 + 0x1p-40, 1 + 3 * 0x1p-8,
                            -1 - 0x1p-8 - 0x1p-40};
  std::vector<bf16> out(in.size());
  backend->copy(Tensor::of(std::span(out)), Tensor::of(std::span(in)));
  std::vector<double> back(in.size());
  backend->copy(Tensor::of(std::span(back)), Tensor::of(std::span(out)));
  EXPECT_EQ(back, (std::vector<double>{1.0, 1.0, 1 + 0x1p-7, 1 + 0x1p-6, -1 - 0x1p-7}));
}

TEST(Reference, CopyOfStridedRowsAndOfIntegers) {
  const auto backend = make_reference_backend();
  RandomTensor x({4, 6}, 1), y({4, 2}, 2);
  backend->copy(y, x.tensor().slice(1, 3, 2));
  for (size_t t = 0; t < 4; ++t) {
    for (size_t c = 0; c < 2; ++c) EXPECT_EQ(y.values()[t * 2 + c], x.values()[t * 6 + 3 + c]);
  }
  std::vector<int32_t> a = {1, 2, 3}, b(3);
  backend->copy(Tensor::of(std::span(b)), Tensor::of(std::span(a)));
  EXPECT_EQ(a, b);
  backend->zero(x.tensor().slice(1, 0, 5));
  EXPECT_EQ(x.values()[4], 0);
  EXPECT_NE(x.values()[5], 0);
}

TEST(Reference, AdamWFollowsThePaper) {
  const auto backend = make_reference_backend();
  std::vector<double> w = {0.5}, m = {0}, v = {0}, g = {3};
  const auto t = [](std::vector<double>& x) { return Tensor::of(std::span(x)); };
  AdamW options{.lr = 0.1,
                .beta1 = 0.9,
                .beta2 = 0.99,
                .eps = 1e-8,
                .weight_decay = 0.2,
                .step = 1,
                .gradient_scale = 0.5};
  backend->adamw_step(t(w), t(w), t(m), t(v), t(g), options);
  // After one step the corrected moments are g and g^2: an update of 1, decay 0.1 * 0.2 * 0.5.
  EXPECT_NEAR(w[0], 0.5 - 0.1 - 0.01, 1e-8);
  EXPECT_NEAR(m[0], 0.1 * 1.5, 1e-15);
  EXPECT_NEAR(v[0], 0.01 * 2.25, 1e-15);
  options.step = 2;
  backend->adamw_step(t(w), t(w), t(m), t(v), t(g), options);
  EXPECT_NEAR(w[0], 0.39 - 0.1 - 0.02 * 0.39, 1e-8);  // a constant gradient moves by lr again
}

TEST(Reference, RefusesOtherTypesAndShapesByName) {
  const auto backend = make_reference_backend();
  EXPECT_TRUE(backend->supports(DType::kF64));
  EXPECT_FALSE(backend->supports(DType::kF32));
  std::vector<float> floats(4);
  RandomTensor x({2, 3}, 1), w({4, 2}, 2), y({2, 4}, 3);
  const Tensor wrong(floats.data(), DType::kF32, {1, 4});
  EXPECT_THAT(error_of([&] { backend->linear_forward(y, x, w, Tensor(), false); }),
              HasSubstr("linear weight is [4, 2] f64, but [4, 3] f64"));
  EXPECT_THAT(error_of([&] { backend->add(wrong, x, x); }), HasSubstr("add out is [1, 4] f32"));
  std::vector<int32_t> ids = {0, 9};
  EXPECT_THAT(error_of([&] {
                backend->embedding_forward(x.tensor().slice(0, 0, 2), RandomTensor({5, 3}, 1),
                                           Tensor::of(std::span(ids)), false);
              }),
              HasSubstr("id 9 at row 1 is outside [0, 5)"));
}

}  // namespace
}  // namespace longgen
