// The attention kernels, compiled once an instruction set (attention_kernels_*.cpp). See simd.h on
// what such files may include. Units are bf16 where the set has bf16 products, else f32.
#pragma once

#include "longgen/backend/cpu/attention_kernels.h"
#include "longgen/backend/cpu/simd.h"

namespace longgen {
namespace {

#if defined(__AVX512BF16__)
constexpr bool kBf16Units = true;
#else
constexpr bool kBf16Units = false;
#endif

// Registers limit a product's block: 32 of them with avx512, else 16.
constexpr int kMaxVectors = kLanes == 16 ? 4 : 2;

LONGGEN_SIMD Vf load_units(const uint32_t* p) {
  Vf v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
LONGGEN_SIMD void store_units(uint32_t* p, Vf v) { std::memcpy(p, &v, sizeof v); }

LONGGEN_SIMD Vf broadcast_unit(const uint32_t* p) {
  float x;
  std::memcpy(&x, p, sizeof x);
#if defined(__AVX512F__)
  return (Vf)_mm512_set1_ps(x);
#else
  return broadcast(x);
#endif
}

// c + a b; for bf16 units the sum of both halves' products.
LONGGEN_SIMD Vf multiply_units(Vf c, Vf a, Vf b) {
#if defined(__AVX512BF16__)
  return (Vf)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b);
#else
  return c + a * b;
#endif
}

LONGGEN_SIMD Vf larger(Vf a, Vf b) {
#if defined(__AVX512F__)
  return (Vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (Vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
  return a > b ? a : b;
#endif
}

LONGGEN_SIMD bool any_above(Vf a, Vf b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ) != 0;
#elif defined(__AVX2__)
  return _mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_GT_OQ)) != 0;
#else
  const Vi above = a > b;
  return (above[0] | above[1] | above[2] | above[3]) != 0;
#endif
}

// 2^x to 1e-7 relative for x <= 64; exactly 0 below -126 and at -inf; NaN stays NaN.
// The polynomial is the minimax of 2^f over |f| <= 1/2 in relative error.
LONGGEN_SIMD Vf exp2(Vf x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const Vf t = x + kMagic;
  const Vf f = x - (t - kMagic);
  Vf p = broadcast(1.327647198e-3f);
  p = p * f + 9.675541334e-3f;
  p = p * f + 5.550713274e-2f;
  p = p * f + 2.402211972e-1f;
  p = p * f + 6.931469671e-1f;
  p = p * f + 1.000000072f;
  const Vf y = (Vf)((Vi)p + ((Vi)t << 23));
#if defined(__AVX512F__)
  const __mmask16 kept = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ);
  return (Vf)_mm512_maskz_mov_ps(kept, (__m512)y);
#else
  return x < -126.0f ? Vf{} : y;
#endif
}

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

template <int n>
struct Count {
  static constexpr int value = n;
};

// Calls f with an integral constant for every stretch of vectors of [0, n); n is a multiple of 16.
template <typename F>
LONGGEN_SIMD void for_vectors(int64_t n, F f) {
  int64_t j = 0;
  if constexpr (kMaxVectors == 2) {
    for (; j < n; j += 2 * kLanes) f(Count<2>{}, j);
  } else {
    // Five vectors are better taken as 3 + 2 than as 4 + 1.
    for (; n - j >= 4 * kLanes && n - j != 5 * kLanes; j += 4 * kLanes) f(Count<4>{}, j);
    if (n - j >= 3 * kLanes) {
      f(Count<3>{}, j);
      j += 3 * kLanes;
    }
    if (n - j >= 2 * kLanes) {
      f(Count<2>{}, j);
      j += 2 * kLanes;
    }
    if (n - j >= kLanes) f(Count<1>{}, j);
  }
}

void product(const AttentionProduct& p) {
  for_vectors(p.n, [&](auto count, int64_t j) { product_columns<count.value>(p, j); });
}

// --- elementwise steps ---

LONGGEN_SIMD Vf masked(Vf x, Vf otherwise, const int32_t* position, int32_t key) {
  Vi at;
  std::memcpy(&at, position, sizeof at);
  return at >= key ? x : otherwise;
}

#if defined(__AVX512BF16__)
// Lane by lane (low, high) as bf16 pairs.
LONGGEN_SIMD Vf pair(Vf low, Vf high) {
  // Within the register of both, halves 0-15 come from `low` and 16-31 from `high`.
  const __m512i lanes = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512bh both = _mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
  return (Vf)_mm512_permutexvar_epi16(lanes, (__m512i)both);
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

template <int kVectors>
LONGGEN_SIMD void rescale(const AttentionSoftmax& a, int64_t lane, const Vf* factor) {
  for (int64_t d = 0; d < a.out_rows; ++d) {
    float* row = a.out + d * kPanel + lane;
    for (int v = 0; v < kVectors; ++v) {
      store(row + v * kLanes, load(row + v * kLanes) * factor[v]);
    }
  }
}

template <int kVectors>
LONGGEN_SIMD void softmax_lanes(const AttentionSoftmax& a, int64_t lane) {
  Vf before[kVectors], top[kVectors], shift[kVectors], factor[kVectors], sum[2][kVectors] = {};
  for (int v = 0; v < kVectors; ++v) top[v] = before[v] = load(a.maximum + lane + v * kLanes);
  float* s = a.s + lane;
  if (a.mask.position) {
    for (int64_t n = 0; n < a.keys; ++n) {
      for (int v = 0; v < kVectors; ++v) {
        float* x = s + n * kPanel + v * kLanes;
        store(x, masked(load(x), broadcast(-__builtin_inff()), a.mask.position + lane + v * kLanes,
                        a.mask.first_key + static_cast<int32_t>(n)));
      }
    }
  }
  for (int64_t n = 0; n < a.keys; ++n) {
    for (int v = 0; v < kVectors; ++v) top[v] = larger(top[v], load(s + n * kPanel + v * kLanes));
  }
  bool grown = false;
  for (int v = 0; v < kVectors; ++v) {
    shift[v] = top[v] * a.scale;
    factor[v] = exp2((before[v] - top[v]) * a.scale);
    grown |= any_above(top[v], before[v]);
    store(a.maximum + lane + v * kLanes, top[v]);
  }
  for (int64_t n = 0; n < a.keys; n += 2) {
    for (int v = 0; v < kVectors; ++v) {
      const float* x = s + n * kPanel + v * kLanes;
      const Vf low = exp2(load(x) * a.scale - shift[v]);
      const Vf high = exp2(load(x + kPanel) * a.scale - shift[v]);
      sum[0][v] += low;
      sum[1][v] += high;
      store_paired(a.p, n, lane + v * kLanes, low, high);
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    float* total = a.sum + lane + v * kLanes;
    store(total, load(total) * factor[v] + (sum[0][v] + sum[1][v]));
  }
  if (grown) rescale<kVectors>(a, lane, factor);
}

void softmax(const AttentionSoftmax& a) {
  for_vectors(a.lanes, [&](auto count, int64_t lane) { softmax_lanes<count.value>(a, lane); });
  if (a.padded_keys > a.keys) zero_paired(a.p, a.keys, a.padded_keys, a.lanes);
}

LONGGEN_SIMD void store_row(uint32_t* rows, int64_t n, int64_t lane, Vf x) {
  if constexpr (kBf16Units) {
    store(reinterpret_cast<uint16_t*>(rows + n * (kPanel / 2)) + lane, x);
  } else {
    store_units(rows + n * kPanel + lane, x);
  }
}

template <bool kMasked>
LONGGEN_SIMD void gradient_lanes(const AttentionGradient& a, int64_t lane) {
  const Vf lse = load(a.lse + lane), delta = load(a.delta + lane);
  for (int64_t n = 0; n < a.keys; n += 2) {
    Vf p[2], ds[2];
    for (int h = 0; h < 2; ++h) {
      const int64_t at = (n + h) * kPanel + lane;
      p[h] = exp2(load(a.s + at) * a.scale - lse);
      if (kMasked) {
        p[h] = masked(p[h], Vf{}, a.mask.position + lane,
                      a.mask.first_key + static_cast<int32_t>(n + h));
      }
      ds[h] = p[h] * (load(a.dp + at) - delta);
      store_row(a.p_rows, n + h, lane, p[h]);
      store_row(a.ds_rows, n + h, lane, ds[h]);
    }
    if (a.ds_paired) store_paired(a.ds_paired, n, lane, ds[0], ds[1]);
  }
}

void gradient(const AttentionGradient& a) {
  for (int64_t lane = 0; lane < a.lanes; lane += kLanes) {
    if (a.mask.position) {
      gradient_lanes<true>(a, lane);
    } else {
      gradient_lanes<false>(a, lane);
    }
  }
  if (a.ds_paired && a.padded_keys > a.keys) {
    zero_paired(a.ds_paired, a.keys, a.padded_keys, a.lanes);
  }
}

// --- layouts ---

#if defined(__clang__) || __GNUC__ >= 12
#define LONGGEN_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define LONGGEN_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Vi{__VA_ARGS__})
#endif

LONGGEN_SIMD void interleave(Vf a, Vf b, Vf* low, Vf* high) {
#if defined(__AVX512F__)
  *low = LONGGEN_SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  *high = LONGGEN_SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif defined(__AVX2__)
  *low = LONGGEN_SHUFFLE(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
  *high = LONGGEN_SHUFFLE(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#else
  *low = LONGGEN_SHUFFLE(a, b, 0, 4, 1, 5);
  *high = LONGGEN_SHUFFLE(a, b, 2, 6, 3, 7);
#endif
}

// Interleaving the two halves of a list of kLanes vectors log2(kLanes) times transposes it.
LONGGEN_SIMD void transpose_square(Vf* x) {
  for (int step = 1; step < kLanes; step *= 2) {
    Vf y[kLanes];
    for (int i = 0; i < kLanes / 2; ++i) {
      interleave(x[i], x[i + kLanes / 2], &y[2 * i], &y[2 * i + 1]);
    }
    for (int i = 0; i < kLanes; ++i) x[i] = y[i];
  }
}

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
float exponentials(float* x, float maximum, float scale, int64_t n) {
  Vf sum = {};
  const float shift = maximum * scale;
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

// --- decode ---

// 64 bytes of a query against the same channels of a key; `part` are the 32 bytes of a last odd 16
// bf16.
LONGGEN_SIMD Vf multiply_channels(Vf sum, const float* q, const float* k) {
  for (int i = 0; i < 16; i += kLanes) sum += load(q + i) * load(k + i);
  return sum;
}
LONGGEN_SIMD Vf multiply_channels(Vf sum, const uint16_t* q, const uint16_t* k) {
#if defined(__AVX512BF16__)
  return (Vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_loadu_si512(q),
                              (__m512bh)_mm512_loadu_si512(k));
#else
  for (int i = 0; i < 32; i += kLanes) sum += load(q + i) * load(k + i);
  return sum;
#endif
}
LONGGEN_SIMD Vf multiply_part(Vf sum, const uint16_t* q, const uint16_t* k) {
  for (int i = 0; i < 16; i += kLanes) sum += load(q + i) * load(k + i);
  return sum;
}

// x[i] = vectors whose lanes sum to q . (row i of k). The rows are walked side by side: as many
// independent sums hide the latency of the additions.
template <int kRows, typename T>
LONGGEN_SIMD void dot_rows(Vf* x, const T* q, const T* k, int64_t stride, int64_t head_dim) {
  constexpr int64_t kStep = 64 / static_cast<int64_t>(sizeof(T));
  for (int i = 0; i < kRows; ++i) x[i] = Vf{};
  int64_t d = 0;
  for (; d + kStep <= head_dim; d += kStep) {
    const T* key = k + d;
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i, key += stride) x[i] = multiply_channels(x[i], q + d, key);
  }
  if constexpr (sizeof(T) == 2) {
    if (d == head_dim) return;
    for (int i = 0; i < kRows; ++i) x[i] = multiply_part(x[i], q + d, k + i * stride + d);
  }
}

// Lane i of the result is the sum of the lanes of x[i]; x is used up.
LONGGEN_SIMD Vf sum_each(Vf* x) {
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) {
      Vf low, high;
      interleave(x[i], x[i + half], &low, &high);
      x[i] = low + high;
    }
  }
  return x[0];
}

template <typename T>
LONGGEN_SIMD void fetch_ahead(const AttentionStream<T>& x, int64_t n, int64_t head_dim) {
  if (x.ahead == nullptr) return;
  const T* row = x.ahead + n * x.ahead_stride;
  for (int64_t d = 0; d < head_dim; d += 64 / static_cast<int64_t>(sizeof(T))) {
    __builtin_prefetch(row + d);
  }
}

template <typename T>
void stream_scores(float* s, int64_t s_row, const T* q, int64_t rows, const AttentionStream<T>& k,
                   int64_t head_dim) {
  int64_t n = 0;
  for (; n + kLanes <= k.keys; n += kLanes) {
    for (int i = 0; i < kLanes; ++i) fetch_ahead(k, n + i, head_dim);
    for (int64_t r = 0; r < rows; ++r) {
      Vf x[kLanes];
      dot_rows<kLanes>(x, q + r * head_dim, k.data + n * k.stride, k.stride, head_dim);
      store(s + r * s_row + n, sum_each(x));
    }
  }
  for (; n < k.keys; ++n) {
    for (int64_t r = 0; r < rows; ++r) {
      Vf x[1];
      dot_rows<1>(x, q + r * head_dim, k.data + n * k.stride, k.stride, head_dim);
      s[r * s_row + n] = reduce_sum(x[0]);
    }
  }
}

template <int kRows, int kVectors, typename T>
LONGGEN_SIMD void stream_values_block(float* out, int64_t out_row, const float* p, int64_t p_row,
                                      const T* v, int64_t stride, int64_t keys) {
  Vf sum[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int j = 0; j < kVectors; ++j) sum[r][j] = load(out + r * out_row + j * kLanes);
  }
  for (int64_t n = 0; n < keys; ++n, v += stride) {
    Vf value[kVectors];
    for (int j = 0; j < kVectors; ++j) value[j] = load(v + j * kLanes);
    for (int r = 0; r < kRows; ++r) {
      const Vf weight = broadcast(p[r * p_row + n]);
      for (int j = 0; j < kVectors; ++j) sum[r][j] += weight * value[j];
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int j = 0; j < kVectors; ++j) store(out + r * out_row + j * kLanes, sum[r][j]);
  }
}

// rows <= 4, keys <= 16 at a time so that what is fetched ahead comes in small portions.
template <int kRows, typename T>
void stream_values_rows(float* out, const float* p, int64_t p_row, const T* v, int64_t stride,
                        int64_t keys, int64_t head_dim) {
  for_vectors(head_dim, [&](auto vectors, int64_t d) {
    stream_values_block<kRows, vectors.value>(out + d, head_dim, p, p_row, v + d, stride, keys);
  });
}

template <typename T>
void stream_values(float* out, const float* p, int64_t p_row, int64_t rows,
                   const AttentionStream<T>& v, int64_t head_dim) {
  using Rows = void(float*, const float*, int64_t, const T*, int64_t, int64_t, int64_t);
  constexpr Rows* kByRows[] = {stream_values_rows<1, T>, stream_values_rows<2, T>,
                               stream_values_rows<3, T>, stream_values_rows<4, T>};
  for (int64_t n = 0; n < v.keys; n += 16) {
    const int64_t keys = v.keys - n < 16 ? v.keys - n : 16;
    for (int64_t i = 0; i < keys; ++i) fetch_ahead(v, n + i, head_dim);
    for (int64_t r = 0; r < rows; r += 4) {
      const int64_t count = rows - r < 4 ? rows - r : 4;
      kByRows[count - 1](out + r * head_dim, p + r * p_row + n, p_row, v.data + n * v.stride,
                         v.stride, keys, head_dim);
    }
  }
}

constexpr AttentionKernels attention_kernels() {
  return {.bf16_units = kBf16Units,
          .depth_multiple = kBf16Units ? 2 : 1,
          .rows_only = false,
          .begin = nullptr,
          .end = nullptr,
          .product = product,
          .softmax = softmax,
          .gradient = gradient,
          .transpose = transpose,
          .pair_rows = pair_rows,
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
