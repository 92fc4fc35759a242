// Vectors of the widest registers that the including file is compiled for: 16 floats for avx512, 8
// for avx2, 4 otherwise.
//
// Files compiled for an instruction set must not emit code that others could be linked to: a
// function of vague linkage (inline, template) may be kept from any file, and the copy from a file
// of a newer instruction set would crash an older processor. So everything here is in an unnamed
// namespace, and such files include no other header with function bodies.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace longgen {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

#define LONGGEN_SIMD [[gnu::always_inline, maybe_unused]] inline

// GCC's vector types: + - * / and comparisons work by lane; a comparison gives -1 or 0 per lane.
typedef float Vf __attribute__((vector_size(4 * kLanes)));
typedef int32_t Vi __attribute__((vector_size(4 * kLanes)));
typedef uint32_t Vu __attribute__((vector_size(4 * kLanes)));
typedef uint16_t Vh __attribute__((vector_size(2 * kLanes)));

LONGGEN_SIMD Vf broadcast(float x) { return x - Vf{}; }  // x - 0 is x, -0 included
LONGGEN_SIMD Vf load(const float* p) {
  Vf v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
LONGGEN_SIMD void store(float* p, Vf v) { std::memcpy(p, &v, sizeof v); }

// bf16 is the upper half of an f32.
LONGGEN_SIMD float bf16_to_float(uint16_t x) {
  const uint32_t u = static_cast<uint32_t>(x) << 16;
  float f;
  std::memcpy(&f, &u, sizeof f);
  return f;
}

LONGGEN_SIMD Vf load(const uint16_t* p) {
#if defined(__AVX512F__)
  const __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return (Vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16);
#elif defined(__AVX2__)
  const __m128i h = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return (Vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16);
#else
  const Vu u = {p[0], p[1], p[2], p[3]};
  return (Vf)(u << 16);
#endif
}
// Round to nearest even; NaN stays NaN.
LONGGEN_SIMD void store(uint16_t* p, Vf v) {
#if defined(__AVX512BF16__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh((__m512)v));
#else
  const Vu u = (Vu)v;
  const Vu rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const Vu bits = (v != v) ? ((u >> 16) | 0x40u) : rounded;
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16((__m512i)bits));
#elif defined(__AVX2__)
  const __m256i packed = _mm256_packus_epi32((__m256i)bits, (__m256i)bits);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08)));
#else
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<uint16_t>(bits[i]);
#endif
#endif
}

// a * b + c, rounded once where the instruction set can. Sums that must come out the same from
// kernels of different shapes are written with it: left to itself, the compiler joins a product and
// a sum or not by the loop around them (GCC's avoid-fma-max-bits, part of some tunings, keeps them
// apart where a loop has a single sum).
LONGGEN_SIMD Vf multiply_add(Vf a, Vf b, Vf c) {
#if defined(__AVX512F__)
  return (Vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
  return (Vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;  // the baseline has no such instruction to join them with
#endif
}

// The first n lanes, 0 < n <= kLanes; the others are 0 when loaded and left alone when stored.
#if defined(__AVX512F__)
LONGGEN_SIMD uint32_t lane_mask(int64_t n) { return (1u << n) - 1; }
LONGGEN_SIMD Vf load(const float* p, int64_t n) {
  return (Vf)_mm512_maskz_loadu_ps(static_cast<__mmask16>(lane_mask(n)), p);
}
LONGGEN_SIMD Vf load(const uint16_t* p, int64_t n) {
  const __m256i h = _mm256_maskz_loadu_epi16(static_cast<__mmask16>(lane_mask(n)), p);
  return (Vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16);
}
LONGGEN_SIMD void store(float* p, Vf v, int64_t n) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>(lane_mask(n)), (__m512)v);
}
LONGGEN_SIMD void store(uint16_t* p, Vf v, int64_t n) {
  uint16_t buffer[kLanes];
  store(buffer, v);
  const __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(buffer));
  _mm256_mask_storeu_epi16(p, static_cast<__mmask16>(lane_mask(n)), h);
}
#else
template <typename T>
LONGGEN_SIMD Vf load(const T* p, int64_t n) {
  T buffer[kLanes] = {};
  std::memcpy(buffer, p, static_cast<size_t>(n) * sizeof(T));
  return load(buffer);
}
template <typename T>
LONGGEN_SIMD void store(T* p, Vf v, int64_t n) {
  T buffer[kLanes];
  store(buffer, v);
  std::memcpy(p, buffer, static_cast<size_t>(n) * sizeof(T));
}
#endif

LONGGEN_SIMD Vf sqrt(Vf x) {
#if defined(__AVX512F__)
  return (Vf)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
  return (Vf)_mm256_sqrt_ps((__m256)x);
#else
  for (int i = 0; i < kLanes; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}
// a < b ? a : b and a > b ? a : b: b when one is NaN.
#if defined(__AVX512F__)
LONGGEN_SIMD Vf min(Vf a, Vf b) { return (Vf)_mm512_min_ps((__m512)a, (__m512)b); }
LONGGEN_SIMD Vf max(Vf a, Vf b) { return (Vf)_mm512_max_ps((__m512)a, (__m512)b); }
#elif defined(__AVX2__)
LONGGEN_SIMD Vf min(Vf a, Vf b) { return (Vf)_mm256_min_ps((__m256)a, (__m256)b); }
LONGGEN_SIMD Vf max(Vf a, Vf b) { return (Vf)_mm256_max_ps((__m256)a, (__m256)b); }
#else
LONGGEN_SIMD Vf min(Vf a, Vf b) { return a < b ? a : b; }
LONGGEN_SIMD Vf max(Vf a, Vf b) { return a > b ? a : b; }
#endif

// out[i] = the sum over the lanes of v[i].
LONGGEN_SIMD void reduce_sums(const Vf (&v)[4], float* out) {
#if defined(__AVX2__)
  const auto pairs = [](Vf a, Vf b) {  // per 128-bit lane: a0+a2, b0+b2, a1+a3, b1+b3
#if defined(__AVX512F__)
    return (Vf)_mm512_unpacklo_ps((__m512)a, (__m512)b) +
           (Vf)_mm512_unpackhi_ps((__m512)a, (__m512)b);
#else
    return (Vf)_mm256_unpacklo_ps((__m256)a, (__m256)b) +
           (Vf)_mm256_unpackhi_ps((__m256)a, (__m256)b);
#endif
  };
  const Vf x = pairs(v[0], v[1]), y = pairs(v[2], v[3]);
#if defined(__AVX512F__)
  const __m512 z = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd((__m512)x),
                                                       _mm512_castps_pd((__m512)y))) +
                   _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd((__m512)x),
                                                       _mm512_castps_pd((__m512)y)));
  const __m256 halves = _mm512_castps512_ps256(z) + _mm512_extractf32x8_ps(z, 1);
#else
  const __m256 halves = _mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd((__m256)x),
                                                            _mm256_castps_pd((__m256)y))) +
                        _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd((__m256)x),
                                                            _mm256_castps_pd((__m256)y)));
#endif
  _mm_storeu_ps(out, _mm256_castps256_ps128(halves) + _mm256_extractf128_ps(halves, 1));
#else
  for (int i = 0; i < 4; ++i) out[i] = (v[i][0] + v[i][2]) + (v[i][1] + v[i][3]);
#endif
}

// Over the lanes, halves first: the order is fixed.
LONGGEN_SIMD float reduce_sum(Vf v) {
  float x[kLanes];
  std::memcpy(x, &v, sizeof v);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) x[i] += x[i + half];
  }
  return x[0];
}
LONGGEN_SIMD float reduce_max(Vf v) {
  float x[kLanes];
  std::memcpy(x, &v, sizeof v);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) x[i] = x[i] > x[i + half] ? x[i] : x[i + half];
  }
  return x[0];
}

// e^x = p 2^n, |x| <= 88.8: x = n ln 2 + r with |r| <= ln 2 / 2; the polynomial is Cephes' expf
// (Moshier).
struct ExpParts {
  Vf p, n;
};
LONGGEN_SIMD ExpParts exp_parts(Vf x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const Vf n = (x * 1.44269504088896341f + kMagic) - kMagic;
  const Vf r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  Vf p = broadcast(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  return {p * (r * r) + r + 1.0f, n};
}
#if !defined(__AVX512F__)
// In two steps, so that 2^128 does not overflow on the way.
LONGGEN_SIMD Vf scale(const ExpParts& e) {
  constexpr float kMagic = 12582912.0f;
  const Vi exponent = (Vi)(e.n + kMagic) - (Vi)broadcast(kMagic);
  const Vi first = exponent >> 1;
  return (e.p * (Vf)((first + 127) << 23)) * (Vf)((exponent - first + 127) << 23);
}
#endif

// e^x to about 1 ulp. 0 below -87.33 (the smallest normal number), so exp(-inf) is exactly 0;
// infinite above 88.72; NaN stays NaN. Only the upper end is clamped: what comes out below the
// lower one is replaced.
LONGGEN_SIMD Vf exp(Vf x) {
  constexpr float kLowest = -87.33654f;
  const ExpParts e = exp_parts(min(broadcast(88.8f), x));
#if defined(__AVX512F__)
  // Not less than: NaN passes.
  const __mmask16 keep = _mm512_cmp_ps_mask((__m512)x, (__m512)broadcast(kLowest), _CMP_NLT_UQ);
  return (Vf)_mm512_maskz_scalef_ps(keep, (__m512)e.p, (__m512)e.n);
#else
  return x < kLowest ? Vf{} : scale(e);
#endif
}

// s = sigmoid(x) and 1 - s, each to a few units in the last place down to e^-87, which is what
// comes out beyond.
struct Sigmoid {
  Vf s, complement;
};
LONGGEN_SIMD Sigmoid sigmoid(Vf x) {
#if defined(__AVX512F__)
  // The smaller magnitude, with the sign of x.
  const Vf u = (Vf)_mm512_range_ps((__m512)x, (__m512)broadcast(87.0f), 0x2);
  const ExpParts parts = exp_parts(-u);
  const Vf e = (Vf)_mm512_scalef_ps((__m512)parts.p, (__m512)parts.n);
#else
  const Vf e = scale(exp_parts(min(broadcast(87.0f), max(broadcast(-87.0f), -x))));
#endif
  const Vf s = 1.0f / (1.0f + e);
  return {s, e * s};
}

// erf to about 1e-7 absolute: x + x q(x^2) up to 0.9, 1 - e^p(|x|) up to 4.1 and 1 beyond; q and p
// are least-squares fits to erf(x)/x - 1 and ln erfc(x) over Chebyshev points of these intervals.
LONGGEN_SIMD Vf erf(Vf x) {
  const Vf s = x * x;
  Vf q = broadcast(-5.972102323e-04f);
  q = q * s + 4.989944512e-03f;
  q = q * s - 2.676478345e-02f;
  q = q * s + 1.128177858e-01f;
  q = q * s - 3.761249170e-01f;
  q = q * s + 1.283791496e-01f;
  const Vf magnitude = x < 0.0f ? -x : x;
  const Vf t = min(magnitude, broadcast(4.1f));
  Vf p = broadcast(-1.674995208e-05f);
  p = p * t + 3.761707942e-04f;
  p = p * t - 3.849115190e-03f;
  p = p * t + 2.417069476e-02f;
  p = p * t - 1.066676371e-01f;
  p = p * t - 6.349301145e-01f;
  p = p * t - 1.128681618e+00f;
  p = p * t - 7.131916376e-06f;
  const Vf tail = 1.0f - exp(p);
  const Vf small = x * q + x;
  return magnitude < 0.92f ? small : (x < 0.0f ? -tail : tail);
}

}  // namespace
}  // namespace longgen
