// A turn of attention forward by tiles: the softmax of one key tile between the products of its
// neighbours, the scores of the next tile and the values of the last. The vector instructions and
// the tile products run side by side then; a processor reaches too little ahead to do so by itself.
// Part of attention_kernels_amx.cpp.
#pragma once

#include "longgen/backend/cpu/amx_tiles.h"
#include "longgen/backend/cpu/attention_kernels_impl.h"

namespace longgen {
namespace {

constexpr int64_t kTurnKeys = 64;

// The softmax of kTurnKeys keys and a panel's lanes, two keys at a time.
template <bool kMasked>
class SoftmaxParts {
 public:
  LONGGEN_SIMD explicit SoftmaxParts(const AttentionSoftmax& a)
      : s_(a.s), p_(a.p), mask_(a.mask), scale_(broadcast(a.scale)) {
    for (int v = 0; v < 2; ++v) shift_[v] = load(a.shift + v * kLanes);
  }

  LONGGEN_SIMD void next() {
    for (int v = 0; v < 2; ++v) {
      const int64_t lane = v * kLanes;
      Vf low = exp2<kProbabilityDegree>(load(s_ + lane) * scale_ - shift_[v]);
      Vf high = exp2<kProbabilityDegree>(load(s_ + kPanel + lane) * scale_ - shift_[v]);
      if (kMasked) {
        low = masked(low, Vf{}, mask_, lane, n_);
        high = masked(high, Vf{}, mask_, lane, n_ + 1);
      }
      sum_[0][v] += low;
      sum_[1][v] += high;
      store_units(p_ + lane, pair(low, high));
    }
    s_ += 2 * kPanel;
    p_ += kPanel;
    n_ += 2;
  }

  LONGGEN_SIMD Vf total(int v) const { return sum_[0][v] + sum_[1][v]; }
  const Vf* shift() const { return shift_; }

 private:
  const float* s_;
  uint32_t* p_;
  AttentionMask mask_;
  int64_t n_ = 0;
  Vf scale_, shift_[2], sum_[2][2] = {};
};

struct TileOperand {
  const uint32_t* data;
  int64_t row;  // units from row to row
};

// One of four products of a step, and its share of the softmax: all of a part, or half of it.
template <int kIndex, bool kHalf, typename Parts>
LONGGEN_SIMD void softmax_share(Parts& parts) {
  if (!kHalf || kIndex % 2 == 1) parts.next();
}

template <int kTile, bool kAccumulate>
LONGGEN_SIMD void begin_sum(const float* c) {
  if constexpr (kAccumulate) {
    tiles::load<kTile>(c, kPanel * 4);
  } else {
    tiles::zero<kTile>();
  }
}

// A step of a block of 32 x 32 sums whose operands are in tiles 4 to 7; those of the next step, at
// a and b, are left there. With kBegin it is the block's first: its sums begin at c, and those of
// the last block leave to `last`. Left operands are read once a panel and stream by the nearest
// cache.
template <bool kBegin, bool kLast, bool kAccumulate, bool kHalf, typename Parts>
LONGGEN_SIMD void turn_step(TileOperand a, const uint32_t* b, float* c, float* last, Parts& parts) {
  constexpr int64_t kRow = kPanel * 4, kLow = 16 * kPanel;
  if constexpr (kLast) tiles::store<0>(last, kRow);
  if constexpr (kBegin) begin_sum<0, kAccumulate>(c);
  tiles::dot_bf16<0, 4, 6>();
  softmax_share<0, kHalf>(parts);
  if constexpr (kLast) tiles::store<1>(last + 16, kRow);
  if constexpr (kBegin) begin_sum<1, kAccumulate>(c + 16);
  tiles::dot_bf16<1, 4, 7>();
  tiles::load_stream<4>(a.data, a.row * 4);
  softmax_share<1, kHalf>(parts);
  if constexpr (kLast) tiles::store<2>(last + kLow, kRow);
  if constexpr (kBegin) begin_sum<2, kAccumulate>(c + kLow);
  tiles::dot_bf16<2, 5, 6>();
  tiles::load<6>(b, kRow);
  softmax_share<2, kHalf>(parts);
  if constexpr (kLast) tiles::store<3>(last + kLow + 16, kRow);
  if constexpr (kBegin) begin_sum<3, kAccumulate>(c + kLow + 16);
  tiles::dot_bf16<3, 5, 7>();
  tiles::load_stream<5>(a.data + 16 * a.row, a.row * 4);
  tiles::load<7>(b + 16, kRow);
  softmax_share<3, kHalf>(parts);
}

// A block of kSteps steps from a and b, then the first operands of the next block.
template <int kSteps, bool kLast, bool kAccumulate, bool kHalf, typename Parts>
LONGGEN_SIMD void turn_block(TileOperand a, const uint32_t* b, float* c, float* last,
                             TileOperand next_a, const uint32_t* next_b, Parts& parts) {
  constexpr int64_t kStepB = 16 * kPanel;
  static_assert(kSteps > 1);
  turn_step<true, kLast, kAccumulate, kHalf>({a.data + 16, a.row}, b + kStepB, c, last, parts);
  for (int k = 2; k < kSteps; ++k) {
    turn_step<false, false, false, kHalf>({a.data + k * 16, a.row}, b + k * kStepB, c, last, parts);
  }
  turn_step<false, false, false, kHalf>(next_a, next_b, c, last, parts);
}

// Head sizes of 32 kSteps: 64 or 128.
template <int kSteps, bool kMasked>
void fused_turn(const AttentionProduct& scores, const AttentionSoftmax& softmax,
                const AttentionProduct& values) {
  constexpr bool kHalf = kSteps == 4;
  constexpr int64_t kBlock = 32 * kPanel;
  SoftmaxParts<kMasked> parts(softmax);
  const TileOperand k{scores.a, scores.a_row}, k_low{scores.a + 32 * k.row, k.row};
  const TileOperand v{values.a, values.a_row};
  tiles::load_stream<4>(k.data, k.row * 4);
  tiles::load<6>(scores.b, kPanel * 4);
  tiles::load<7>(scores.b + 16, kPanel * 4);
  tiles::load_stream<5>(k.data + 16 * k.row, k.row * 4);
  float *s = scores.c, *out = values.c;
  turn_block<kSteps, false, false, kHalf>(k, scores.b, s, s, k_low, scores.b, parts);
  turn_block<kSteps, true, false, kHalf>(k_low, scores.b, s + kBlock, s, v, values.b, parts);
  float* last = s + kBlock;
  for (int i = 0; i < kSteps; ++i) {
    const TileOperand now{v.data + i * 32 * v.row, v.row};
    // Behind the last block the first one is loaded again, in vain.
    const TileOperand next{i + 1 < kSteps ? now.data + 32 * v.row : v.data, v.row};
    turn_block<2, true, true, kHalf>(now, values.b, out + i * kBlock, last, next, values.b, parts);
    last = out + i * kBlock;
  }
  tiles::store<0>(last, kPanel * 4);
  tiles::store<1>(last + 16, kPanel * 4);
  tiles::store<2>(last + 16 * kPanel, kPanel * 4);
  tiles::store<3>(last + 16 * kPanel + 16, kPanel * 4);

  Vf total[2] = {parts.total(0), parts.total(1)};
  if (!all_below(total[0], broadcast(kMostSum)) || !all_below(total[1], broadcast(kMostSum))) {
    Vf shift[2] = {parts.shift()[0], parts.shift()[1]};
    move_shift<2, kMasked>(softmax, 0, shift);
    exponentiate<2, kMasked>(softmax, 0, shift, total);
  }
  for (int i = 0; i < 2; ++i) {
    float* sum = softmax.sum + i * kLanes;
    store(sum, load(sum) + total[i]);
  }
}

// Whether the softmax has a shift to begin with in every lane.
LONGGEN_SIMD bool has_shift(const AttentionSoftmax& a) {
  const Vf none = broadcast(kNoShift / 2);
  return !any_above(none, load(a.shift)) && !any_above(none, load(a.shift + kLanes));
}

LONGGEN_SIMD bool can_fuse(const AttentionProduct& scores, const AttentionSoftmax& softmax,
                           const AttentionProduct& values) {
  const int64_t dim = values.m;
  return (dim == 64 || dim == 128) && scores.depth == dim / 2 && scores.m == kTurnKeys &&
         softmax.keys == kTurnKeys && softmax.padded_keys == kTurnKeys &&
         values.depth == kTurnKeys / 2 && scores.n == kPanel && softmax.lanes == kPanel &&
         values.n == kPanel && has_shift(softmax);
}

// `next` and `last` are of other key tiles than `softmax`, or of other panels.
template <void kProduct(const AttentionProduct&)>
void turn(const AttentionPanel* next, const AttentionPanel* now, const AttentionPanel* last) {
  if (next == nullptr || now == nullptr || last == nullptr ||
      !can_fuse(next->scores, now->softmax, last->values)) {
    // The sums of the last tile first: the softmax may scale them.
    if (last != nullptr) kProduct(last->values);
    if (now != nullptr) softmax(now->softmax);
    if (next != nullptr) kProduct(next->scores);
    return;
  }
  const auto fused = [&](auto steps) {
    if (now->softmax.mask.position != nullptr) {
      fused_turn<steps.value, true>(next->scores, now->softmax, last->values);
    } else {
      fused_turn<steps.value, false>(next->scores, now->softmax, last->values);
    }
  };
  if (last->values.m == 64) {
    fused(Count<2>{});
  } else {
    fused(Count<4>{});
  }
}

}  // namespace
}  // namespace longgen
