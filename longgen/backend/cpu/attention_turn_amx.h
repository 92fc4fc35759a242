// Turns of attention by tiles: the vector work of a panel with a key tile between the products of
// others. Forward, the softmax between the scores of the next key tile and the values of the last;
// backward, the gradient between the products of the last dq. The vector instructions and the tile
// products run side by side then; a processor reaches too little ahead to do so by itself.
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

// The share of the vector work that goes with one of a step's products: kHalves halves of a part.
template <int kIndex, int kHalves, typename Parts>
LONGGEN_SIMD void share(Parts& parts) {
  if constexpr (kHalves == 1) {
    if constexpr (kIndex % 2 == 1) parts.next();
  } else {
    for (int i = 0; i < kHalves / 2; ++i) parts.next();
  }
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
template <bool kBegin, bool kLast, bool kAccumulate, int kHalves, typename Parts>
LONGGEN_SIMD void turn_step(TileOperand a, const uint32_t* b, float* c, float* last, Parts& parts) {
  constexpr int64_t kRow = kPanel * 4, kLow = 16 * kPanel;
  if constexpr (kLast) tiles::store<0>(last, kRow);
  if constexpr (kBegin) begin_sum<0, kAccumulate>(c);
  tiles::dot_bf16<0, 4, 6>();
  share<0, kHalves>(parts);
  if constexpr (kLast) tiles::store<1>(last + 16, kRow);
  if constexpr (kBegin) begin_sum<1, kAccumulate>(c + 16);
  tiles::dot_bf16<1, 4, 7>();
  tiles::load_stream<4>(a.data, a.row * 4);
  share<1, kHalves>(parts);
  if constexpr (kLast) tiles::store<2>(last + kLow, kRow);
  if constexpr (kBegin) begin_sum<2, kAccumulate>(c + kLow);
  tiles::dot_bf16<2, 5, 6>();
  tiles::load<6>(b, kRow);
  share<2, kHalves>(parts);
  if constexpr (kLast) tiles::store<3>(last + kLow + 16, kRow);
  if constexpr (kBegin) begin_sum<3, kAccumulate>(c + kLow + 16);
  tiles::dot_bf16<3, 5, 7>();
  tiles::load_stream<5>(a.data + 16 * a.row, a.row * 4);
  tiles::load<7>(b + 16, kRow);
  share<3, kHalves>(parts);
}

// A block of kSteps steps from a and b, then the first operands of the next block.
template <int kSteps, bool kLast, bool kAccumulate, int kHalves, typename Parts>
LONGGEN_SIMD void turn_block(TileOperand a, const uint32_t* b, float* c, float* last,
                             TileOperand next_a, const uint32_t* next_b, Parts& parts) {
  constexpr int64_t kStepB = 16 * kPanel;
  static_assert(kSteps > 1);
  turn_step<true, kLast, kAccumulate, kHalves>({a.data + 16, a.row}, b + kStepB, c, last, parts);
  for (int k = 2; k < kSteps; ++k) {
    turn_step<false, false, false, kHalves>({a.data + k * 16, a.row}, b + k * kStepB, c, last,
                                            parts);
  }
  turn_step<false, false, false, kHalves>(next_a, next_b, c, last, parts);
}

LONGGEN_SIMD void begin_operands(TileOperand a, const uint32_t* b) {
  tiles::load_stream<4>(a.data, a.row * 4);
  tiles::load<6>(b, kPanel * 4);
  tiles::load<7>(b + 16, kPanel * 4);
  tiles::load_stream<5>(a.data + 16 * a.row, a.row * 4);
}
LONGGEN_SIMD void end_sums(float* c) {
  tiles::store<0>(c, kPanel * 4);
  tiles::store<1>(c + 16, kPanel * 4);
  tiles::store<2>(c + 16 * kPanel, kPanel * 4);
  tiles::store<3>(c + 16 * kPanel + 16, kPanel * 4);
}

// Rows of 16 x 32 sums from left operands of two steps and a right operand that stays in tiles 4 to
// 7: half the loads of blocks of 32 x 32, and two sums leave while two are made. The left operand
// of a row is in tiles 2 and 3; those of the next row are left there. With kSwitch the rows after
// it have another right operand.
LONGGEN_SIMD void load_right(const uint32_t* b) {
  constexpr int64_t kRow = kPanel * 4, kStep = 16 * kPanel;
  tiles::load<4>(b, kRow);
  tiles::load<5>(b + 16, kRow);
  tiles::load<6>(b + kStep, kRow);
  tiles::load<7>(b + kStep + 16, kRow);
}
LONGGEN_SIMD void load_left_row(TileOperand a) {
  tiles::load_stream<2>(a.data, a.row * 4);
  tiles::load_stream<3>(a.data + 16, a.row * 4);
}
template <bool kLast, bool kAccumulate, bool kSwitch, int kHalves, typename Parts>
LONGGEN_SIMD void held_row(float* c, float* last, TileOperand next_a, const uint32_t* next_b,
                           Parts& parts) {
  constexpr int64_t kRow = kPanel * 4, kStep = 16 * kPanel;
  if constexpr (kLast) tiles::store<0>(last, kRow);
  begin_sum<0, kAccumulate>(c);
  tiles::dot_bf16<0, 2, 4>();
  if constexpr (kSwitch) tiles::load<4>(next_b, kRow);
  share<0, kHalves>(parts);
  if constexpr (kLast) tiles::store<1>(last + 16, kRow);
  begin_sum<1, kAccumulate>(c + 16);
  tiles::dot_bf16<1, 2, 5>();
  tiles::load_stream<2>(next_a.data, next_a.row * 4);
  if constexpr (kSwitch) tiles::load<5>(next_b + 16, kRow);
  share<1, kHalves>(parts);
  tiles::dot_bf16<0, 3, 6>();
  if constexpr (kSwitch) tiles::load<6>(next_b + kStep, kRow);
  share<2, kHalves>(parts);
  tiles::dot_bf16<1, 3, 7>();
  tiles::load_stream<3>(next_a.data + 16, next_a.row * 4);
  if constexpr (kSwitch) tiles::load<7>(next_b + kStep + 16, kRow);
  share<3, kHalves>(parts);
}
// kRows rows of 16 of a, whose first are loaded, into sums at c; `last`, unless kFirst, is a row
// that has yet to leave. Returns the row that then has.
template <int kRows, bool kFirst, bool kAccumulate, bool kSwitch, int kHalves, typename Parts>
LONGGEN_SIMD float* held_rows(TileOperand a, float* c, float* last, TileOperand next_a,
                              const uint32_t* next_b, Parts& parts) {
  constexpr int64_t kRow = 16 * kPanel;
  const auto rows = [&](int64_t i) { return TileOperand{a.data + i * 16 * a.row, a.row}; };
  held_row<!kFirst, kAccumulate, false, kHalves>(c, last, rows(1), next_b, parts);
  for (int i = 1; i < kRows - 1; ++i) {
    held_row<true, kAccumulate, false, kHalves>(c + i * kRow, c + (i - 1) * kRow, rows(i + 1),
                                                next_b, parts);
  }
  last = c + (kRows - 1) * kRow;
  held_row<true, kAccumulate, kSwitch, kHalves>(last, last - kRow, next_a, next_b, parts);
  return last;
}
LONGGEN_SIMD void end_row(float* last) {
  tiles::store<0>(last, kPanel * 4);
  tiles::store<1>(last + 16, kPanel * 4);
}

// Nothing between the products.
struct NoParts {
  LONGGEN_SIMD void next() {}
};

LONGGEN_SIMD bool can_hold(const AttentionProduct& p) {
  return p.n == 32 && p.depth == 32 && p.m >= 32 && p.c_row == kPanel && p.b_depth == kPanel;
}
template <bool kAccumulate>
void held_product(const AttentionProduct& p) {
  NoParts none;
  const TileOperand a{p.a, p.a_row};
  load_right(p.b);
  load_left_row(a);
  float* last = p.c;
  held_row<false, kAccumulate, false, 2>(p.c, last, {a.data + 16 * a.row, a.row}, p.b, none);
  for (int64_t i = 16; i < p.m; i += 16) {
    float* c = p.c + i * kPanel;
    // Behind the last rows the first ones are loaded again, in vain.
    const int64_t next = i + 16 < p.m ? i + 16 : 0;
    held_row<true, kAccumulate, false, 2>(c, last, {a.data + next * a.row, a.row}, p.b, none);
    last = c;
  }
  end_row(last);
}

// Head sizes of 32 kSteps: 64 or 128.
template <int kSteps, bool kMasked>
void fused_turn(const AttentionProduct& scores, const AttentionSoftmax& softmax,
                const AttentionProduct& values) {
  constexpr int kHalves = kSteps == 4 ? 1 : 2;
  constexpr int64_t kBlock = 32 * kPanel;
  SoftmaxParts<kMasked> parts(softmax);
  const TileOperand k{scores.a, scores.a_row}, k_low{scores.a + 32 * k.row, k.row};
  const TileOperand v{values.a, values.a_row};
  float *s = scores.c, *last = s;
  if constexpr (kSteps == 2) {
    load_left_row(k);
    load_right(scores.b);
    last = held_rows<kTurnKeys / 16, true, false, true, kHalves>(k, s, s, v, values.b, parts);
    last = held_rows<4, false, true, false, kHalves>(v, values.c, last, v, values.b, parts);
  } else {
    begin_operands(k, scores.b);
    turn_block<kSteps, false, false, kHalves>(k, scores.b, s, s, k_low, scores.b, parts);
    turn_block<kSteps, true, false, kHalves>(k_low, scores.b, s + kBlock, s, k, scores.b, parts);
    end_sums(s + kBlock);
    load_left_row(v);
    load_right(values.b);
    last = held_rows<2 * kSteps, true, true, false, kHalves>(v, values.c, last, v, values.b, parts);
  }
  end_row(last);

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

// --- backward ---

// The gradient of kTurnKeys keys and a panel's lanes, two keys at a time.
template <bool kMasked>
class GradientParts {
 public:
  LONGGEN_SIMD explicit GradientParts(const AttentionGradient& a) : a_(a) {
    for (int v = 0; v < 2; ++v) {
      lse_[v] = load(a.lse + v * kLanes);
      delta_[v] = load(a.delta + v * kLanes);
    }
  }
  LONGGEN_SIMD void next() {
    gradient_pair<kMasked>(a_, n_, 0, lse_, delta_);
    n_ += 2;
  }

 private:
  AttentionGradient a_;
  int64_t n_ = 0;
  Vf lse_[2], delta_[2];
};

template <int kSteps, bool kMasked>
void fused_gradient(const AttentionGradient& gradient, const AttentionProduct& dq) {
  constexpr int kHalves = kSteps == 4 ? 2 : 4;
  GradientParts<kMasked> parts(gradient);
  const TileOperand k{dq.a, dq.a_row};
  load_left_row(k);
  load_right(dq.b);
  end_row(held_rows<2 * kSteps, true, true, false, kHalves>(k, dq.c, dq.c, k, dq.b, parts));
}

LONGGEN_SIMD bool can_fuse(const AttentionGradient& gradient, const AttentionProduct& dq) {
  return (dq.m == 64 || dq.m == 128) && gradient.keys == kTurnKeys &&
         gradient.padded_keys == kTurnKeys && gradient.lanes == kPanel && dq.n == kPanel &&
         dq.depth == kTurnKeys / 2;
}

template <void kProduct(const AttentionProduct&)>
void backward_turn(const AttentionGradientPanel* now, const AttentionGradientPanel* last) {
  if (now != nullptr) {
    kProduct(now->scores);
    kProduct(now->dprobabilities);
  }
  if (now == nullptr || last == nullptr || !can_fuse(now->gradient, last->dq)) {
    if (now != nullptr) gradient(now->gradient);
    if (last != nullptr) kProduct(last->dq);
    return;
  }
  const auto fused = [&](auto steps) {
    if (now->gradient.mask.position != nullptr) {
      fused_gradient<steps.value, true>(now->gradient, last->dq);
    } else {
      fused_gradient<steps.value, false>(now->gradient, last->dq);
    }
  };
  if (last->dq.m == 64) {
    fused(Count<2>{});
  } else {
    fused(Count<4>{});
  }
}

}  // namespace
}  // namespace longgen
