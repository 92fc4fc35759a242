// The row kernels, compiled once an instruction set (row_kernels_*.cpp). See simd.h.
#pragma once

#include <utility>

#include "longgen/backend/cpu/row_kernels.h"
#include "longgen/backend/cpu/simd.h"

namespace longgen {
namespace {

// f(i, n) for stretches of n <= kLanes elements from i on; all but the last have n == kLanes, so
// that inlining makes two copies of f: whole vectors, and one part.
template <typename F>
LONGGEN_SIMD void for_lanes(int64_t n, F f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) f(i, kLanes);
  if (i < n) f(i, n - i);
}
template <typename T>
LONGGEN_SIMD Vf get(const T* p, int64_t n) {
  return n == kLanes ? load(p) : load(p, n);
}
template <typename T>
LONGGEN_SIMD void put(T* p, Vf v, int64_t n) {
  if (n == kLanes) {
    store(p, v);
  } else {
    store(p, v, n);
  }
}

// The sum over a row of f(i, n), whose lanes past n must be 0. Four accumulators hide the latency
// of the additions.
template <typename F>
LONGGEN_SIMD float sum_lanes(int64_t n, F f) {
  Vf sum[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (int j = 0; j < 4; ++j) sum[j] += f(i + j * kLanes, kLanes);
  }
  for (; i + kLanes <= n; i += kLanes) sum[0] += f(i, kLanes);
  if (i < n) sum[1] += f(i, n - i);
  return reduce_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
}
// Lanes past n become 0.
LONGGEN_SIMD Vf first_lanes(Vf v, int64_t n) {
  if (n == kLanes) return v;
  for (int64_t i = n; i < kLanes; ++i) v[i] = 0;
  return v;
}

template <typename T>
void add(T* out, const T* a, const T* b, int64_t n) {
  for_lanes(n, [=](int64_t i, int64_t m) { put(out + i, get(a + i, m) + get(b + i, m), m); });
}

template <typename T>
void accumulate(float* acc, const T* a, int64_t n) {
  for_lanes(n, [=](int64_t i, int64_t m) { put(acc + i, get(acc + i, m) + get(a + i, m), m); });
}

template <typename T>
void to_float(float* out, const T* a, int64_t n) {
  for_lanes(n, [=](int64_t i, int64_t m) { put(out + i, get(a + i, m), m); });
}

template <typename T>
void from_float(T* out, const float* a, int64_t n) {
  for_lanes(n, [=](int64_t i, int64_t m) { put(out + i, get(a + i, m), m); });
}

template <typename T>
void finish_product(T* out, const float* c, const float* bias, const T* base, int64_t n) {
  for_lanes(n, [=](int64_t i, int64_t m) {
    Vf v = get(c + i, m);
    if (bias) v += get(bias + i, m);
    if (base) v += get(base + i, m);
    put(out + i, v, m);
  });
}

template <typename T>
double sum_of_squares(const T* a, int64_t n) {
  double sum[kLanes] = {};
  for_lanes(n, [&](int64_t i, int64_t m) {
    const Vf v = get(a + i, m);
    for (int j = 0; j < kLanes; ++j)
      sum[j] += static_cast<double>(v[j]) * static_cast<double>(v[j]);
  });
  double total = 0;
  for (int j = 0; j < kLanes; ++j) total += sum[j];
  return total;
}

template <typename T>
void norm_forward(const NormRow& row, T* out, const T* x, const T* weight, const T* bias) {
  const int64_t d = row.d;
  float mean = 0;
  if (row.layer) {
    mean =
        sum_lanes(d, [=](int64_t i, int64_t m) { return get(x + i, m); }) / static_cast<float>(d);
  }
  const float square = sum_lanes(d, [=](int64_t i, int64_t m) {
    const Vf v = first_lanes(get(x + i, m) - mean, m);
    return v * v;
  });
  const float rstd = 1.0f / __builtin_sqrtf(square / static_cast<float>(d) + row.eps);
  for_lanes(d, [=](int64_t i, int64_t m) {
    Vf y = (get(x + i, m) - mean) * rstd * get(weight + i, m);
    if (bias) y += get(bias + i, m);
    put(out + i, y, m);
  });
  if (row.stats) {
    row.stats[0] = mean;
    row.stats[1] = rstd;
  }
}

// With h = (x - mean) rstd and g = dy weight: dx = rstd (g - [mean g] - h mean(g h)), the bracket
// for layer norm alone; dweight += dy h, dbias += dy.
template <typename T>
void norm_backward(const NormRow& row, T* dx, bool accumulate_dx, float* dweight, float* dbias,
                   const T* dy, const T* x, const T* weight) {
  const int64_t d = row.d;
  const float mean = row.stats[0], rstd = row.stats[1], inverse_d = 1.0f / static_cast<float>(d);
  const auto h = [=](int64_t i, int64_t m) { return (get(x + i, m) - mean) * rstd; };
  const auto g = [=](int64_t i, int64_t m) { return get(dy + i, m) * get(weight + i, m); };
  const float mean_g = row.layer ? sum_lanes(d, g) * inverse_d : 0.0f;
  const float mean_gh =
      sum_lanes(d, [=](int64_t i, int64_t m) { return g(i, m) * h(i, m); }) * inverse_d;
  for_lanes(d, [=](int64_t i, int64_t m) {
    const Vf vh = h(i, m), vdy = get(dy + i, m);
    if (dweight) put(dweight + i, get(dweight + i, m) + vdy * vh, m);
    if (dbias) put(dbias + i, get(dbias + i, m) + vdy, m);
    Vf v = rstd * (vdy * get(weight + i, m) - mean_g - vh * mean_gh);
    if (accumulate_dx) v += get(dx + i, m);
    put(dx + i, v, m);
  });
}

template <typename T>
void rope(T* x, int64_t heads, int64_t head_stride, const float* cos, const float* sin,
          int64_t half, bool inverse) {
  const float sign = inverse ? -1.0f : 1.0f;
  for (int64_t head = 0; head < heads; ++head) {
    T* low = x + head * head_stride;
    T* high = low + half;
    for_lanes(half, [=](int64_t i, int64_t m) {
      const Vf a = get(low + i, m), b = get(high + i, m);
      const Vf c = get(cos + i, m), s = get(sin + i, m) * sign;
      put(low + i, a * c - b * s, m);
      put(high + i, b * c + a * s, m);
    });
  }
}

struct ValueAndSlope {
  Vf value, slope;
};

// The formulas are those of the reference backend's pointwise.h; (1 + tanh(u)) / 2 = sigmoid(2u).
LONGGEN_SIMD ValueAndSlope activate(RowActivation act, Vf x) {
  switch (act) {
    case RowActivation::kSilu: {
      const auto [s, complement] = sigmoid(x);
      return {x * s, s * (1.0f + x * complement)};
    }
    case RowActivation::kGelu: {
      const Vf cdf = 0.5f * (1.0f + erf(x * 0.70710678118654752f));
      const Vf pdf = exp(x * x * -0.5f) * 0.39894228040143268f;
      return {x * cdf, cdf + x * pdf};
    }
    case RowActivation::kGeluTanh: {
      constexpr float kA = 2 * 0.79788456080286536f, kB = 0.044715f;
      const auto [s, complement] = sigmoid(kA * (x + kB * x * x * x));
      return {x * s, s + x * s * complement * kA * (1.0f + 3 * kB * x * x)};
    }
    default:
      return {x > 0.0f ? x : Vf{}, x > 0.0f ? broadcast(1.0f) : Vf{}};
  }
}

template <RowActivation kAct, typename T>
void activation_forward_as(T* out, const T* gate, const T* up, int64_t n) {
  for_lanes(n, [=](int64_t i, int64_t m) {
    Vf v = activate(kAct, get(gate + i, m)).value;
    if (up) v *= get(up + i, m);
    put(out + i, v, m);
  });
}

template <RowActivation kAct, typename T>
void activation_backward_as(T* out, T* dgate, T* dup, const T* dout, const T* gate, const T* up,
                            int64_t n) {
  for_lanes(n, [=](int64_t i, int64_t m) {
    const ValueAndSlope a = activate(kAct, get(gate + i, m));
    const Vf g = get(dout + i, m);
    const Vf second = up ? get(up + i, m) : Vf{};
    if (out) put(out + i, up ? a.value * second : a.value, m);
    put(dgate + i, up ? g * second * a.slope : g * a.slope, m);
    if (up) put(dup + i, g * a.value, m);
  });
}

template <typename T>
void activation_forward(RowActivation act, T* out, const T* gate, const T* up, int64_t n) {
  switch (act) {
    case RowActivation::kSilu:
      return activation_forward_as<RowActivation::kSilu>(out, gate, up, n);
    case RowActivation::kGelu:
      return activation_forward_as<RowActivation::kGelu>(out, gate, up, n);
    case RowActivation::kGeluTanh:
      return activation_forward_as<RowActivation::kGeluTanh>(out, gate, up, n);
    case RowActivation::kRelu:
      return activation_forward_as<RowActivation::kRelu>(out, gate, up, n);
  }
}

template <typename T>
void activation_backward(RowActivation act, T* out, T* dgate, T* dup, const T* dout, const T* gate,
                         const T* up, int64_t n) {
  switch (act) {
    case RowActivation::kSilu:
      return activation_backward_as<RowActivation::kSilu>(out, dgate, dup, dout, gate, up, n);
    case RowActivation::kGelu:
      return activation_backward_as<RowActivation::kGelu>(out, dgate, dup, dout, gate, up, n);
    case RowActivation::kGeluTanh:
      return activation_backward_as<RowActivation::kGeluTanh>(out, dgate, dup, dout, gate, up, n);
    case RowActivation::kRelu:
      return activation_backward_as<RowActivation::kRelu>(out, dgate, dup, dout, gate, up, n);
  }
}

LONGGEN_SIMD float row_max(const float* x, int64_t n) {
  Vf best = broadcast(-__builtin_inff());
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) best = max(best, load(x + i));
  float result = reduce_max(best);
  for (; i < n; ++i) result = x[i] > result ? x[i] : result;
  return result;
}

template <typename T>
float cross_entropy(T* dlogits, const float* logits, int64_t n, int64_t label, float scale) {
  const float top = row_max(logits, n);
  const float sum = sum_lanes(
      n, [=](int64_t i, int64_t m) { return first_lanes(exp(get(logits + i, m) - top), m); });
  const double lse = static_cast<double>(top) + __builtin_log(static_cast<double>(sum));
  const float loss = static_cast<float>(lse - static_cast<double>(logits[label]));
  if (!dlogits) return loss;
  const float factor = scale / sum;
  // Read before dlogits is written: they may be the same memory.
  float target = (__builtin_expf(logits[label] - top) / sum - 1.0f) * scale;
  for_lanes(n, [=](int64_t i, int64_t m) {
    put(dlogits + i, exp(get(logits + i, m) - top) * factor, m);
  });
  from_float(dlogits + label, &target, 1);
  return loss;
}

template <typename T>
void adamw(const AdamWFactors& f, T* weights, float* master, float* m, float* v,
           const float* gradient, int64_t n) {
  for_lanes(n, [=](int64_t i, int64_t lanes) {
    const Vf g = get(gradient + i, lanes) * f.gradient_scale;
    const Vf mean = f.beta1 * get(m + i, lanes) + f.one_minus_beta1 * g;
    const Vf square = f.beta2 * get(v + i, lanes) + f.one_minus_beta2 * (g * g);
    const Vf update = f.m_factor * mean / (sqrt(f.v_factor * square) + f.eps);
    const Vf old = get(master + i, lanes);
    const Vf p = old - (update + f.decay * old);
    put(m + i, mean, lanes);
    put(v + i, square, lanes);
    put(master + i, p, lanes);
    put(weights + i, p, lanes);
  });
}

// The halves of x * factor by lane.
LONGGEN_SIMD void multiply_wide(Vu x, uint32_t factor, Vu& high, Vu& low) {
  low = x * factor;
#if defined(__AVX512F__)
  const __m512i f = _mm512_set1_epi32(static_cast<int>(factor)), v = (__m512i)x;
  const __m512i even = _mm512_mul_epu32(v, f), odd = _mm512_mul_epu32(_mm512_srli_epi64(v, 32), f);
  high = (Vu)_mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
#elif defined(__AVX2__)
  const __m256i f = _mm256_set1_epi32(static_cast<int>(factor)), v = (__m256i)x;
  const __m256i even = _mm256_mul_epu32(v, f), odd = _mm256_mul_epu32(_mm256_srli_epi64(v, 32), f);
  high = (Vu)_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
#else
  for (int l = 0; l < kLanes; ++l) high[l] = static_cast<uint32_t>((uint64_t{x[l]} * factor) >> 32);
#endif
}

// kLanes lanes of a0 b0 a1 b1 ..., from lane `first` of a and b on.
template <size_t first, size_t... lane>
LONGGEN_SIMD Vu interleave_from(Vu a, Vu b, std::index_sequence<lane...>) {
  return __builtin_shufflevector(a, b, (first + lane / 2 + lane % 2 * kLanes)...);
}

// One after the other, the lanes of a and b in turn: a0 b0 a1 b1 ...
LONGGEN_SIMD void interleave(Vu a, Vu b, Vu (&out)[2]) {
  constexpr std::make_index_sequence<kLanes> kSequence;
  out[0] = interleave_from<0>(a, b, kSequence);
  out[1] = interleave_from<kLanes / 2>(a, b, kSequence);
}

// For 2 kLanes elements from `first` (even) on, words 0 and 1 (even elements) or 2 and 3 (odd ones)
// of philox(seed, stream, element / 2): see base/rng.h.
LONGGEN_SIMD void rounding_words(const RowRounding& rounding, int64_t first, Vu (&low)[2],
                                 Vu (&high)[2]) {
  const auto counter = static_cast<uint64_t>(first / 2);
  Vu x0, x1;
  for (int l = 0; l < kLanes; ++l) {
    x0[l] = static_cast<uint32_t>(counter + l);
    x1[l] = static_cast<uint32_t>((counter + l) >> 32);
  }
  Vu x2 = Vu{} + static_cast<uint32_t>(rounding.stream);
  Vu x3 = Vu{} + static_cast<uint32_t>(rounding.stream >> 32);
  auto key0 = static_cast<uint32_t>(rounding.seed);
  auto key1 = static_cast<uint32_t>(rounding.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    Vu high0, low0, high1, low1;
    multiply_wide(x0, 0xD2511F53u, high0, low0);
    multiply_wide(x2, 0xCD9E8D57u, high1, low1);
    x0 = high1 ^ x1 ^ key0;
    x1 = low1;
    x2 = high0 ^ x3 ^ key1;
    x3 = low0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  interleave(x0, x2, low);
  interleave(x1, x3, high);
}

// The upper half of x + bits (below 2^16): what rounding to bf16 by these bits gives, still as f32.
LONGGEN_SIMD Vf rounded_by(Vf x, Vu bits) {
  const Vu sum = ((Vu)x + bits) & 0xffff0000u;
  return (x != x) ? x : (Vf)sum;
}

void adamw_bf16(const AdamWFactors& f, const RowRounding& rounding, int64_t first,
                uint16_t* weights, uint16_t* m, uint16_t* v, const float* gradient, int64_t n) {
  Vu low[2], high[2];
  int64_t half = 0;
  for_lanes(n, [&](int64_t i, int64_t lanes) {
    if (half == 0) rounding_words(rounding, first + i, low, high);
    const Vf g = get(gradient + i, lanes) * f.gradient_scale;
    const Vf mean = f.beta1 * get(m + i, lanes) + f.one_minus_beta1 * g;
    const Vf square = f.beta2 * get(v + i, lanes) + f.one_minus_beta2 * (g * g);
    const Vf update = f.m_factor * mean / (sqrt(f.v_factor * square) + f.eps);
    const Vf old = get(weights + i, lanes);
    put(weights + i, rounded_by(old - (update + f.decay * old), low[half] & 0xffffu), lanes);
    put(m + i, rounded_by(mean, low[half] >> 16), lanes);
    put(v + i, rounded_by(square, high[half] & 0xffffu), lanes);
    half ^= 1;
  });
}

template <typename T>
constexpr RowKernels<T> kRowKernels = {
    add<T>,
    accumulate<T>,
    to_float<T>,
    from_float<T>,
    finish_product<T>,
    sum_of_squares<T>,
    norm_forward<T>,
    norm_backward<T>,
    rope<T>,
    activation_forward<T>,
    activation_backward<T>,
    cross_entropy<T>,
    adamw<T>,
    adamw_bf16,
};

}  // namespace
}  // namespace longgen
