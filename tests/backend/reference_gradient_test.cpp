// Every backward operation of the reference against finite differences of its forward, for the loss
// sum(out * r) with a random r.
#include <gtest/gtest.h>

#include <algorithm>

#include "longgen/backend/backend.h"
#include "tests/testing/finite_difference.h"

namespace longgen {
namespace {

using testing::dot;
using testing::expect_gradient;
using testing::RandomTensor;

class ReferenceGradient : public ::testing::Test {
 protected:
  std::unique_ptr<Backend> backend_ = make_reference_backend();
};

TEST_F(ReferenceGradient, Norms) {
  for (const NormKind kind : {NormKind::kRms, NormKind::kLayer}) {
    RandomTensor x({3, 2, 16}, 1), weight({16}, 2), bias({16}, 3), r({3, 2, 16}, 4);
    RandomTensor out({3, 2, 16}, 5), stats({6, 2}, 6), dx({3, 2, 16}, 7), dw({16}, 8), db({16}, 9);
    const auto f = [&] {
      backend_->norm_forward(kind, out, stats, x, weight, bias, 1e-5);
      return dot(out.values(), r.values());
    };
    f();
    const auto dx_before = dx.values();
    dw.fill(0);
    db.fill(0);
    backend_->norm_backward(kind, dx, true, dw, db, r, x, stats, weight);
    std::vector<double> added(dx_before.size());
    for (size_t i = 0; i < added.size(); ++i) added[i] = dx.values()[i] - dx_before[i];
    expect_gradient("dx", x.values(), added, f);
    expect_gradient("dweight", weight.values(), dw.values(), f);
    expect_gradient("dbias", bias.values(), db.values(), f);

    // In place, without accumulating, and adding to dweight.
    f();
    RandomTensor in_place({3, 2, 16}, 4);
    const auto once = dw.values();
    backend_->norm_backward(kind, in_place, false, dw, Tensor(), in_place, x, stats, weight);
    for (size_t i = 0; i < added.size(); ++i) EXPECT_NEAR(in_place.values()[i], added[i], 1e-12);
    for (size_t i = 0; i < once.size(); ++i) EXPECT_NEAR(dw.values()[i], 2 * once[i], 1e-12);
  }
}

TEST_F(ReferenceGradient, Linear) {
  RandomTensor x({5, 7}, 1), w({4, 7}, 2), bias({4}, 3), y({5, 4}, 4), r({5, 4}, 5);
  RandomTensor dx({5, 7}, 6), dw({4, 7}, 7), db({4}, 8);
  const WeightView view(w);
  const auto f = [&] {
    backend_->linear_forward(y, x, view, bias, false);
    return dot(y.values(), r.values());
  };
  f();
  dw.fill(0);
  db.fill(0);
  backend_->linear_backward_input(dx, r, view, false);
  backend_->linear_backward_weight(dw, r, x);
  backend_->linear_backward_bias(db, r);
  expect_gradient("dx", x.values(), dx.values(), f);
  expect_gradient("dw", w.values(), dw.values(), f);
  expect_gradient("dbias", bias.values(), db.values(), f);

  // Accumulation adds the same again.
  f();
  const auto y1 = y.values(), dx1 = dx.values(), dw1 = dw.values();
  backend_->linear_forward(y, x, view, bias, true);
  backend_->linear_backward_input(dx, r, view, true);
  backend_->linear_backward_weight(dw, r, x);
  for (size_t i = 0; i < y1.size(); ++i) EXPECT_NEAR(y.values()[i], 2 * y1[i], 1e-12);
  for (size_t i = 0; i < dx1.size(); ++i) EXPECT_NEAR(dx.values()[i], 2 * dx1[i], 1e-12);
  for (size_t i = 0; i < dw1.size(); ++i) EXPECT_NEAR(dw.values()[i], 2 * dw1[i], 1e-12);
}

TEST_F(ReferenceGradient, RopeRotatesBackWithTheTransposedMatrix) {
  // A factor other than 1 (YaRN's) tells the transpose from the inverse.
  std::vector<float> table(3 * 4);
  for (int p = 0; p < 3; ++p) {
    for (int c = 0; c < 2; ++c) {
      table[static_cast<size_t>(p * 4 + c)] = static_cast<float>(1.25 * std::cos(p * (c + 1)));
      table[static_cast<size_t>(p * 4 + 2 + c)] = static_cast<float>(1.25 * std::sin(p * (c + 1)));
    }
  }
  std::vector<int32_t> positions = {2, 0, 1, 1};
  const Tensor t(table.data(), DType::kF32, {3, 4}), p = Tensor::of(std::span(positions));
  RandomTensor x({4, 2, 6}, 1), out({4, 2, 6}, 2), r({4, 2, 6}, 3), dx({4, 2, 6}, 3);
  const auto f = [&] {
    backend_->copy(out, x);
    backend_->rope(out, t, p, false);
    return dot(out.values(), r.values());
  };
  backend_->rope(dx, t, p, true);
  expect_gradient("dx", x.values(), dx.values(), f);
}

TEST_F(ReferenceGradient, Activations) {
  for (const Activation act :
       {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh, Activation::kRelu}) {
    for (const bool gated : {true, false}) {
      RandomTensor gate({4, 9}, 1), up({4, 9}, 2), r({4, 9}, 3), out({4, 9}, 4);
      RandomTensor dgate({4, 9}, 5), dup({4, 9}, 6);
      const Tensor none, &u = gated ? up.tensor() : none, &du = gated ? dup.tensor() : none;
      const auto f = [&] {
        backend_->activation_forward(act, out, gate, u);
        return dot(out.values(), r.values());
      };
      backend_->activation_backward(act, dgate, du, r, gate, u);
      expect_gradient("dgate", gate.values(), dgate.values(), f);
      if (gated) expect_gradient("dup", up.values(), dup.values(), f);

      // The outputs may take the place of the inputs.
      backend_->activation_backward(act, gate, u, r, gate, u);
      EXPECT_EQ(gate.values(), dgate.values());
      if (gated) {
        EXPECT_EQ(up.values(), dup.values());
      }
    }
  }
}

TEST_F(ReferenceGradient, SoftmaxCrossEntropy) {
  std::vector<int32_t> labels = {3, -1, 0, 6};
  RandomTensor logits({4, 7}, 1, 3), losses({4}, 2), dlogits({4, 7}, 3);
  const auto f = [&] {
    backend_->softmax_cross_entropy(losses, Tensor(), logits, Tensor::of(std::span(labels)), 1);
    EXPECT_EQ(losses.values()[1], 0);
    return 0.5 * (losses.values()[0] + losses.values()[2] + losses.values()[3]);
  };
  backend_->softmax_cross_entropy(losses, dlogits, logits, Tensor::of(std::span(labels)), 0.5);
  expect_gradient("dlogits", logits.values(), dlogits.values(), f);
  for (size_t c = 7; c < 14; ++c) EXPECT_EQ(dlogits.values()[c], 0);
}

TEST_F(ReferenceGradient, Embedding) {
  std::vector<int32_t> ids = {1, 4, 1, 0};
  RandomTensor table({5, 3}, 1), out({4, 3}, 2), r({4, 3}, 3), dtable({5, 3}, 4);
  const auto f = [&] {
    backend_->embedding_forward(out, table, Tensor::of(std::span(ids)), false);
    return dot(out.values(), r.values());
  };
  dtable.fill(0);
  backend_->embedding_backward(dtable, r, Tensor::of(std::span(ids)));
  expect_gradient("dtable", table.values(), dtable.values(), f);
}

// Two isolated documents with padding after each, grouped heads, offsets per KV head.
TEST_F(ReferenceGradient, Attention) {
  AttentionPattern strided{.block_size = 16, .sink_blocks = 0, .local_blocks = 1, .stride = 2};
  strided.offsets = {0, 1};
  for (const AttentionPattern& pattern :
       {AttentionPattern::full(16), strided,
        AttentionPattern{.block_size = 16, .sink_blocks = 1, .local_blocks = 1}}) {
    constexpr int64_t kRows = 96, kHeads = 4, kKvHeads = 2, kDim = 4;
    const std::vector<DocumentRange> documents = {{0, 53}, {64, 20}};
    RandomTensor q({kRows, kHeads, kDim}, 1), k({kRows, kKvHeads, kDim}, 2);
    RandomTensor v({kRows, kKvHeads, kDim}, 3), r({kRows, kHeads, kDim}, 4);
    RandomTensor out({kRows, kHeads, kDim}, 5), lse({kHeads, kRows}, 6);
    RandomTensor dq({kRows, kHeads, kDim}, 7), dk({kRows, kKvHeads, kDim}, 8);
    RandomTensor dv({kRows, kKvHeads, kDim}, 9);
    const auto f = [&] {
      std::vector<AttentionSequence> sequences;
      for (const DocumentRange& d : documents) {
        const int64_t at = d.row_begin * kKvHeads * kDim;
        sequences.push_back({.row_begin = d.row_begin,
                             .row_count = d.row_count,
                             .kv = {.keys = k.values().data() + at,
                                    .values = v.values().data() + at,
                                    .page_stride = 16 * kKvHeads * kDim,
                                    .head_stride = kDim,
                                    .token_stride = kKvHeads * kDim,
                                    .length = d.row_count}});
      }
      out.fill(0);
      backend_->attention_forward({.out = out,
                                   .lse = lse,
                                   .q = q,
                                   .sequences = sequences,
                                   .kv_dtype = DType::kF64,
                                   .kv_heads = kKvHeads,
                                   .pattern = &pattern,
                                   .scale = 0.7});
      return dot(out.values(), r.values());
    };
    f();
    backend_->attention_backward({.dq = dq,
                                  .dk = dk,
                                  .dv = dv,
                                  .dout = r,
                                  .out = out,
                                  .q = q,
                                  .k = k,
                                  .v = v,
                                  .lse = lse,
                                  .documents = documents,
                                  .pattern = &pattern,
                                  .scale = 0.7});
    expect_gradient("dq", q.values(), dq.values(), f, 1e-7, 7);
    expect_gradient("dk", k.values(), dk.values(), f, 1e-7, 5);
    expect_gradient("dv", v.values(), dv.values(), f, 1e-7, 5);
    // Rows of no document.
    for (int64_t row = 53; row < 64; ++row) {
      for (int64_t c = 0; c < kHeads * kDim; ++c) {
        EXPECT_EQ(dq.values()[static_cast<size_t>(row * kHeads * kDim + c)], 0);
      }
    }
  }
}

}  // namespace
}  // namespace longgen
