// The attention kernels, compiled once an instruction set (attention_kernels_*.cpp). See simd.h on
// what such files may include.
#pragma once

#include "longgen/backend/cpu/attention_stream_impl.h"
#include "longgen/backend/cpu/attention_vector.h"

namespace longgen {
namespace {

// --- products ---

template <int kRows, int kVectors>
LONGGEN_SIMD void product_block(const AttentionProduct& p, int64_t i, int64_t j) {
  const uint32_t* a = p.a + i * p.a_row;
  const uint32_t* b = p.b + j;
  float* c = p.c + i * p.c_row + j;
  Vf sum[kRows][kVectors] = {};
  if (p.accumulate) {
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) sum[r][v] = load(c + r * p.c_row + v * kLanes);
    }
  }
  const int64_t a_row = p.a_row, a_depth = p.a_depth, b_depth = p.b_depth;
  for (int64_t k = p.depth; k > 0; --k) {
    Vf right[kVectors];
    for (int v = 0; v < kVectors; ++v) right[v] = load_units(b + v * kLanes);
    for (int r = 0; r < kRows; ++r) {
      const Vf left = broadcast_unit(a + r * a_row);
      for (int v = 0; v < kVectors; ++v) sum[r][v] = multiply_units(sum[r][v], left, right[v]);
    }
    a += a_depth;
    b += b_depth;
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) store(c + r * p.c_row + v * kLanes, sum[r][v]);
  }
}

// m is a multiple of 16, so what is left after blocks of 6 is even.
template <int kVectors>
void product_columns(const AttentionProduct& p, int64_t j) {
  constexpr int kRows = kLanes < 16 || kVectors == 4 ? 6 : (kVectors == 1 ? 16 : 8);
  int64_t i = 0;
  for (; i + kRows <= p.m; i += kRows) product_block<kRows, kVectors>(p, i, j);
  if constexpr (kRows == 6) {
    for (; i + 4 <= p.m; i += 4) product_block<4, kVectors>(p, i, j);
    for (; i < p.m; i += 2) product_block<2, kVectors>(p, i, j);
  }
}

void product(const AttentionProduct& p) {
  for_vectors(p.n, [&](auto count, int64_t j) { product_columns<count.value>(p, j); });
}

// --- elementwise steps ---

// x where the lane sees key n of the tile, else `otherwise`.
LONGGEN_SIMD Vf masked(Vf x, Vf otherwise, const AttentionMask& mask, int64_t lane, int64_t n) {
  const auto key = mask.first_key + static_cast<int32_t>(n);
  Vi position, lowest;
  std::memcpy(&position, mask.position + lane, sizeof position);
  std::memcpy(&lowest, mask.lowest + lane, sizeof lowest);
  return ((position >= key) & (lowest <= key)) ? x : otherwise;
}

#if defined(__AVX512BF16__)
// Lane by lane (low, high) of the halves of a register: 0-15 are low, 16-31 high.
LONGGEN_SIMD __m512i pair_halves(__m512i both) {
  const __m512i lanes = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(lanes, both);
}
// Lane by lane (low, high) as bf16 pairs, ties away from 0: by whole numbers, which takes the
// processors that have bf16 conversions fewer cycles than those do. NaN of arithmetic stays NaN.
LONGGEN_SIMD Vf pair(Vf low, Vf high) {
  const __m512i half = _mm512_set1_epi32(0x8000), upper = _mm512_set1_epi32(0xffff << 16);
  const __m512i l = _mm512_srli_epi32(_mm512_add_epi32((__m512i)low, half), 16);
  const __m512i h = _mm512_add_epi32((__m512i)high, half);
  return (Vf)_mm512_ternarylogic_epi32(upper, h, l, 0xEA);  // (upper & h) | l
}
#endif

// Writes rows n and n + 1 as right operand; `count` rows of them are within the keys.
LONGGEN_SIMD void store_paired(uint32_t* p, int64_t n, int64_t lane, Vf low, Vf high) {
#if defined(__AVX512BF16__)
  store_units(p + n / 2 * kPanel + lane, pair(low, high));
#else
  store_units(p + n * kPanel + lane, low);
  store_units(p + (n + 1) * kPanel + lane, high);
#endif
}

void zero_paired(uint32_t* p, int64_t begin, int64_t end, int64_t lanes) {
  for (int64_t n = kBf16Units ? begin / 2 : begin; n < (kBf16Units ? end / 2 : end); ++n) {
    for (int64_t j = 0; j < lanes; j += kLanes) store_units(p + n * kPanel + j, Vf{});
  }
}

// Sums of a tile below this leave the shift where it is. Where p may be s there is no second try,
// so the shift follows at once.
constexpr float kMostSum = kBf16Units ? 0x1p30f : 0;

// Brings the shift of `lanes` up to their maximum over the tile, and out with it.
template <int kVectors, bool kMasked>
void move_shift(const AttentionSoftmax& a, int64_t lane, Vf* shift) {
  Vf top[kVectors];
  const Vf nothing = broadcast(-__builtin_inff());
  for (int v = 0; v < kVectors; ++v) top[v] = nothing;
  for (int64_t n = 0; n < a.keys; ++n) {
    for (int v = 0; v < kVectors; ++v) {
      const int64_t at = lane + v * kLanes;
      Vf x = load(a.s + n * kPanel + at);
      if (kMasked) x = masked(x, nothing, a.mask, at, n);
      top[v] = larger(top[v], x);
    }
  }
  Vf factor[kVectors];
  bool grown = false;
  for (int v = 0; v < kVectors; ++v) {
    const int64_t at = lane + v * kLanes;
    const Vf before = shift[v], wanted = larger(top[v] * a.scale, broadcast(kNoShift));
    shift[v] = larger(before, wanted);
    grown |= any_above(shift[v], before);
    factor[v] = exp2(before - shift[v]);
    store(a.shift + at, shift[v]);
    store(a.sum + at, load(a.sum + at) * factor[v]);
  }
  if (!grown) return;
  for (int64_t d = 0; d < a.out_rows; ++d) {
    float* row = a.out + d * kPanel + lane;
    for (int v = 0; v < kVectors; ++v) {
      store(row + v * kLanes, load(row + v * kLanes) * factor[v]);
    }
  }
}

// Writes p and returns its sums over the tile.
template <int kVectors, bool kMasked>
LONGGEN_SIMD void exponentiate(const AttentionSoftmax& args, int64_t lane, const Vf* shift,
                               Vf* total) {
  const AttentionSoftmax a = args;  // which what is stored does not change
  Vf sum[2][kVectors] = {};
  for (int64_t n = 0; n < a.keys; n += 2) {
    for (int v = 0; v < kVectors; ++v) {
      const int64_t at = lane + v * kLanes;
      const float* x = a.s + n * kPanel + at;
      Vf low = exp2<kProbabilityDegree>(load(x) * a.scale - shift[v]);
      Vf high = exp2<kProbabilityDegree>(load(x + kPanel) * a.scale - shift[v]);
      if (kMasked) {
        low = masked(low, Vf{}, a.mask, at, n);
        high = masked(high, Vf{}, a.mask, at, n + 1);
      }
      sum[0][v] += low;
      sum[1][v] += high;
      store_paired(a.p, n, at, low, high);
    }
  }
  for (int v = 0; v < kVectors; ++v) total[v] = sum[0][v] + sum[1][v];
}

template <int kVectors, bool kMasked>
LONGGEN_SIMD void softmax_lanes(const AttentionSoftmax& a, int64_t lane) {
  Vf shift[kVectors], total[kVectors];
  bool fresh = kMostSum == 0;
  for (int v = 0; v < kVectors; ++v) {
    shift[v] = load(a.shift + lane + v * kLanes);
    fresh |= any_above(broadcast(kNoShift / 2), shift[v]);
  }
  if (fresh) move_shift<kVectors, kMasked>(a, lane, shift);
  exponentiate<kVectors, kMasked>(a, lane, shift, total);
  bool fits = true;
  for (int v = 0; v < kVectors; ++v) fits &= all_below(total[v], broadcast(kMostSum));
  if (!fresh && !fits) {
    move_shift<kVectors, kMasked>(a, lane, shift);
    exponentiate<kVectors, kMasked>(a, lane, shift, total);
  }
  for (int v = 0; v < kVectors; ++v) {
    float* sum = a.sum + lane + v * kLanes;
    store(sum, load(sum) + total[v]);
  }
}

void softmax(const AttentionSoftmax& a) {
  for_vectors(a.lanes, [&](auto count, int64_t lane) {
    if (a.mask.position != nullptr) {
      softmax_lanes<count.value, true>(a, lane);
    } else {
      softmax_lanes<count.value, false>(a, lane);
    }
  });
  if (a.padded_keys > a.keys) zero_paired(a.p, a.keys, a.padded_keys, a.lanes);
}

template <void kProduct(const AttentionProduct&)>
void forward(const AttentionPanel& panel) {
  kProduct(panel.scores);
  softmax(panel.softmax);
  kProduct(panel.values);
}

// What is rounded to bf16 is far from showing an error of 8e-5.
constexpr int kGradientDegree = kBf16Units ? 3 : 5;

// P and dS of key n in one vector of lanes.
template <bool kMasked>
LONGGEN_SIMD void gradient_of(const AttentionGradient& a, int64_t n, int64_t lane, Vf lse, Vf delta,
                              Vf* p, Vf* ds) {
  const int64_t at = n * kPanel + lane;
  *p = exp2<kGradientDegree>(load(a.s + at) * a.scale - lse);
  if (kMasked) *p = masked(*p, Vf{}, a.mask, lane, n);
  *ds = *p * (load(a.dp + at) - delta);
}

#if defined(__AVX512BF16__)

// Two vectors of lanes in one register of bf16.
LONGGEN_SIMD __m512i join(const Vf* x) {
  return (__m512i)_mm512_cvtne2ps_pbh((__m512)x[1], (__m512)x[0]);
}

// Lane by lane (low, high) of 32 lanes, as two vectors of units.
LONGGEN_SIMD void store_paired(uint32_t* to, __m512i low, __m512i high) {
  // Within every 128 bits unpacking pairs four lanes of eight; the quarters are put in order then.
  const __m512i first = _mm512_unpacklo_epi16(low, high), second = _mm512_unpackhi_epi16(low, high);
  const __m512i one = _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0);
  const __m512i two = _mm512_set_epi64(15, 14, 7, 6, 13, 12, 5, 4);
  _mm512_storeu_si512(to, _mm512_permutex2var_epi64(first, one, second));
  _mm512_storeu_si512(to + 16, _mm512_permutex2var_epi64(first, two, second));
}

// Keys n and n + 1 in 32 lanes.
template <bool kMasked>
LONGGEN_SIMD void gradient_pair(const AttentionGradient& a, int64_t n, int64_t lane, const Vf* lse,
                                const Vf* delta) {
  __m512i ds_of[2];
  for (int h = 0; h < 2; ++h) {
    Vf p[2], ds[2];
    for (int v = 0; v < 2; ++v) {
      gradient_of<kMasked>(a, n + h, lane + v * kLanes, lse[v], delta[v], &p[v], &ds[v]);
    }
    ds_of[h] = join(ds);
    const int64_t at = (n + h) * a.row_units + lane / 2;
    _mm512_storeu_si512(a.p_rows + at, join(p));
    _mm512_storeu_si512(a.ds_rows + at, ds_of[h]);
  }
  store_paired(a.ds_paired + n / 2 * kPanel + lane, ds_of[0], ds_of[1]);
}

template <bool kMasked>
LONGGEN_SIMD void gradient_lanes(const AttentionGradient& args, int64_t lane) {
  const AttentionGradient a = args;  // which what is stored does not change
  Vf lse[2], delta[2];
  for (int v = 0; v < 2; ++v) {
    lse[v] = load(a.lse + lane + v * kLanes);
    delta[v] = load(a.delta + lane + v * kLanes);
  }
  for (int64_t n = 0; n < a.keys; n += 2) gradient_pair<kMasked>(a, n, lane, lse, delta);
}
constexpr int64_t kGradientLanes = 32;

#else

template <bool kMasked>
LONGGEN_SIMD void gradient_lanes(const AttentionGradient& a, int64_t lane) {
  const Vf lse = load(a.lse + lane), delta = load(a.delta + lane);
  for (int64_t n = 0; n < a.keys; ++n) {
    Vf p, ds;
    gradient_of<kMasked>(a, n, lane, lse, delta, &p, &ds);
    store_units(a.p_rows + n * a.row_units + lane, p);
    store_units(a.ds_rows + n * a.row_units + lane, ds);
  }
}
constexpr int64_t kGradientLanes = kLanes;

#endif

void gradient(const AttentionGradient& a) {
  for (int64_t lane = 0; lane < a.lanes; lane += kGradientLanes) {
    if (a.mask.position != nullptr) {
      gradient_lanes<true>(a, lane);
    } else {
      gradient_lanes<false>(a, lane);
    }
  }
  if (a.ds_paired && a.padded_keys > a.keys) {
    zero_paired(a.ds_paired, a.keys, a.padded_keys, a.lanes);
  }
}

template <void kProduct(const AttentionProduct&)>
void backward(const AttentionGradientPanel& panel) {
  kProduct(panel.scores);
  kProduct(panel.dprobabilities);
  gradient(panel.gradient);
  kProduct(panel.dq);
}

// --- layouts ---

void transpose(uint32_t* dst, int64_t dst_row, const uint32_t* src, int64_t src_row, int64_t rows,
               int64_t cols) {
  for (int64_t r = 0; r < rows; r += kLanes) {
    for (int64_t c = 0; c < cols; c += kLanes) {
      Vf x[kLanes];
      for (int i = 0; i < kLanes; ++i) x[i] = load_units(src + (r + i) * src_row + c);
      transpose_square(x);
      for (int i = 0; i < kLanes; ++i) store_units(dst + (c + i) * dst_row + r, x[i]);
    }
  }
}

void pair_rows(uint32_t* dst, int64_t dst_row, const uint16_t* src, int64_t src_row, int64_t rows,
               int64_t cols) {
  for (int64_t r = 0; r < rows; r += 2) {
    const uint16_t* low = src + r * src_row;
    const uint16_t* high = low + src_row;
    uint32_t* out = dst + r / 2 * dst_row;
    for (int64_t c = 0; c < cols; ++c) {
      out[c] = static_cast<uint32_t>(low[c]) | static_cast<uint32_t>(high[c]) << 16;
    }
  }
}

void load_f32(uint32_t* dst, int64_t dst_row, const float* src, int64_t src_row, int64_t n,
              int64_t cols) {
  for (int64_t r = 0; r < n; ++r, dst += dst_row, src += src_row) {
    for (int64_t c = 0; c < cols; c += kLanes) store_units(dst + c, load(src + c));
    for (int64_t c = cols; c < dst_row; c += kLanes) store_units(dst + c, Vf{});
  }
}

LONGGEN_SIMD void copy_16_bf16(uint16_t* dst, const uint16_t* src) { std::memcpy(dst, src, 32); }

void load_bf16(uint32_t* dst, int64_t dst_row, const uint16_t* src, int64_t src_row, int64_t n,
               int64_t cols) {
  if constexpr (!kBf16Units) {
    for (int64_t r = 0; r < n; ++r, dst += dst_row, src += src_row) {
      for (int64_t c = 0; c < cols; c += kLanes) store_units(dst + c, load(src + c));
      for (int64_t c = cols; c < dst_row; c += kLanes) store_units(dst + c, Vf{});
    }
    return;
  }
  constexpr uint16_t kZeros[16] = {};
  auto* out = reinterpret_cast<uint16_t*>(dst);
  for (int64_t r = 0; r < n; ++r, out += dst_row, src += src_row) {
    for (int64_t c = 0; c < cols; c += 16) copy_16_bf16(out + c, src + c);
    for (int64_t c = cols; c < dst_row; c += 16) copy_16_bf16(out + c, kZeros);
  }
}

void bf16_rows_to_float(float* dst, const uint16_t* src, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) store(dst + i, load(src + i));
}
void scale_to_float(float* dst, const float* src, float scale, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) store(dst + i, load(src + i) * scale);
}
void scale_to_bf16(uint16_t* dst, const float* src, float scale, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) store(dst + i, load(src + i) * scale);
}
void add(float* dst, const float* src, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) store(dst + i, load(dst + i) + load(src + i));
}
float dot(const float* a, const float* b, int64_t n) {
  Vf sum = {};
  for (int64_t i = 0; i < n; i += kLanes) sum += load(a + i) * load(b + i);
  return reduce_sum(sum);
}
float exponentials(float* x, float shift, float scale, int64_t n) {
  Vf sum = {};
  for (int64_t i = 0; i < n; i += kLanes) {
    const Vf e = exp2(load(x + i) * scale - shift);
    store(x + i, e);
    sum += e;
  }
  return reduce_sum(sum);
}
float maximum(const float* x, int64_t n) {
  Vf top = load(x);
  for (int64_t i = kLanes; i < n; i += kLanes) top = larger(top, load(x + i));
  return reduce_max(top);
}

constexpr AttentionKernels attention_kernels() {
  return {.bf16_units = kBf16Units,
          .depth_multiple = kBf16Units ? 2 : 1,
          .rows_only = false,
          .begin = nullptr,
          .end = nullptr,
          .forward = forward<product>,
          .turn = nullptr,
          .backward = backward<product>,
          .backward_turn = nullptr,
          .product = product,
          .transpose = transpose,
          .pair_rows = pair_rows,
          .pair_columns = nullptr,
          .load_f32 = load_f32,
          .load_bf16 = load_bf16,
          .bf16_to_float = bf16_rows_to_float,
          .scale_to_float = scale_to_float,
          .scale_to_bf16 = scale_to_bf16,
          .add = add,
          .dot = dot,
          .exponentials = exponentials,
          .maximum = maximum,
          .stream_f32 = {stream_scores<float>, stream_values<float>},
          .stream_bf16 = {stream_scores<uint16_t>, stream_values<uint16_t>}};
}

}  // namespace
}  // namespace longgen
