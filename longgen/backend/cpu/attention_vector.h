// Vector helpers that all attention kernels share. See simd.h on what files for one instruction set
// may include. Units are bf16 where the set has bf16 products, else f32.
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

// False where a is NaN.
LONGGEN_SIMD bool all_below(Vf a, Vf b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ) == 0xffff;
#else
  for (int i = 0; i < kLanes; ++i) {
    if (!(a[i] < b[i])) return false;
  }
  return true;
#endif
}

// The minimax polynomials of 2^f over an interval of length 1, in relative error: 1e-7 for degree
// 5, 3e-6 for 4 and 8e-5 for 3.
#if defined(__AVX512F__)
// 0 <= f <= 1
template <int kDegree>
LONGGEN_SIMD Vf exp2_of_fraction(Vf f) {
  if constexpr (kDegree == 3) {
    const Vf p = (broadcast(7.8024524e-02f) * f + 2.2606716e-01f) * f + 6.9583353e-01f;
    return p * f + 9.9992522e-01f;
  } else if constexpr (kDegree == 4) {
    const Vf p = (broadcast(1.3534168e-02f) * f + 5.2011461e-02f) * f + 2.4144276e-01f;
    return (p * f + 6.9300384e-01f) * f + 1.0000026e+00f;
  } else {
    const Vf p = (broadcast(1.877576673e-03f) * f + 8.989340094e-03f) * f + 5.582631806e-02f;
    return ((p * f + 2.401536170e-01f) * f + 6.931530733e-01f) * f + 9.999999255e-01f;
  }
}
// 2^x; exactly 0 at -inf and below -150; NaN stays NaN.
template <int kDegree = 5>
LONGGEN_SIMD Vf exp2(Vf x) {
  const Vf f = (Vf)_mm512_reduce_ps((__m512)x, 9);  // less the integer below; 0 for infinities
  // Scaling rounds x down by itself.
  return (Vf)_mm512_scalef_ps((__m512)exp2_of_fraction<kDegree>(f), (__m512)x);
}
#else
// 2^x for x <= 64; exactly 0 below -126 and at -inf; NaN stays NaN. |f| <= 1/2.
template <int kDegree = 5>
LONGGEN_SIMD Vf exp2(Vf x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const Vf t = x + kMagic;
  const Vf f = x - (t - kMagic);
  Vf p = broadcast(1.327647198e-3f) * f + 9.675541334e-3f;
  p = p * f + 5.550713274e-2f;
  p = p * f + 2.402211972e-1f;
  p = p * f + 6.931469671e-1f;
  p = p * f + 1.000000072f;
  const Vf y = (Vf)((Vu)p + ((Vu)t << 23));
  return x < -126.0f ? Vf{} : y;
}
#endif
// Where units are bf16, probabilities are rounded but their sums, which lse shows, are not.
constexpr int kProbabilityDegree = kBf16Units ? 4 : 5;

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

}  // namespace
}  // namespace longgen
