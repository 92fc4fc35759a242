#include <gtest/gtest.h>

#include "longgen/backend/backend.h"

namespace longgen {
namespace {

Tensor f32(std::initializer_list<int64_t> shape) { return Tensor(nullptr, DType::kF32, shape); }

TEST(Meta, CountsProductsOfNullTensors) {
  const auto meta = make_meta_backend(DType::kF32, nullptr);
  meta->linear_forward(f32({10, 4}), f32({10, 3}), f32({4, 3}), Tensor(), false);
  EXPECT_EQ(meta->counts().flops, 2 * 10 * 4 * 3);
  EXPECT_EQ(meta->counts().bytes_moved, 4 * (40 + 30 + 12));
  meta->linear_backward_input(f32({10, 3}), f32({10, 4}), f32({4, 3}), false);
  meta->linear_backward_weight(f32({4, 3}), f32({10, 4}), f32({10, 3}));
  EXPECT_EQ(meta->counts().flops, 3 * 2 * 10 * 4 * 3);
  EXPECT_EQ(meta->counts().dense_flops, meta->counts().flops);
  EXPECT_EQ(meta->counts().calls, 3);
  meta->reset();
  EXPECT_EQ(meta->counts().flops, 0);
  EXPECT_EQ(meta->counts().calls, 0);
}

TEST(Meta, CountsUnmaskedPairsOfAttention) {
  const auto meta = make_meta_backend(DType::kF32, nullptr);
  const AttentionPattern pattern{.block_size = 16, .sink_blocks = 1, .local_blocks = 1};
  // Positions 32 .. 47 of a document: 16 sink keys each, and 1 .. 16 keys of the diagonal block.
  const AttentionSequence sequence{.row_count = 16, .first_position = 32, .kv = {.length = 48}};
  meta->attention_forward({.out = f32({16, 4, 32}),
                           .q = f32({16, 4, 32}),
                           .sequences = {&sequence, 1},
                           .kv_dtype = DType::kF32,
                           .kv_heads = 2,
                           .pattern = &pattern,
                           .scale = 1});
  const double pairs = 16 * 16 + 16 * 17 / 2, dense = 16 * 32 + 16 * 17 / 2;
  EXPECT_EQ(meta->counts().flops, 4 * 32 * 4 * pairs);
  EXPECT_EQ(meta->counts().dense_flops, 4 * 32 * 4 * dense);
  // q and out, and the 32 keys and values that are seen, of two heads.
  EXPECT_EQ(meta->counts().bytes_moved, 4 * (2 * 16 * 4 * 32 + 2 * 2 * 32 * 32));

  meta->reset();
  const DocumentRange document{0, 48};
  meta->attention_backward({.dq = f32({48, 4, 32}),
                            .dk = f32({48, 2, 32}),
                            .dv = f32({48, 2, 32}),
                            .dout = f32({48, 4, 32}),
                            .out = f32({48, 4, 32}),
                            .q = f32({48, 4, 32}),
                            .k = f32({48, 2, 32}),
                            .v = f32({48, 2, 32}),
                            .lse = f32({4, 48}),
                            .documents = {&document, 1},
                            .pattern = &pattern,
                            .scale = 1});
  const double whole = 3 * 136 + 2 * 256;
  EXPECT_EQ(meta->counts().flops, 10 * 32 * 4 * whole);
}

TEST(Meta, StillChecksShapes) {
  const auto meta = make_meta_backend(DType::kF32, nullptr);
  EXPECT_THROW(meta->linear_forward(f32({10, 4}), f32({10, 5}), f32({4, 3}), Tensor(), false),
               Error);
  EXPECT_THROW(meta->add(f32({3}), f32({3}), f32({4})), Error);
  EXPECT_FALSE(meta->supports(DType::kBF16));
}

}  // namespace
}  // namespace longgen
