// Decode: a few query rows against keys where they lie.
#pragma once

#include "longgen/backend/cpu/attention_vector.h"

namespace longgen {
namespace {

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

// All channels for a number of rows that is known when compiling.
template <int kRows, typename T>
void stream_values_rows(float* out, const float* p, int64_t p_row, const T* v, int64_t stride,
                        int64_t keys, int64_t head_dim) {
  for_vectors(head_dim, [&](auto vectors, int64_t d) {
    stream_values_block<kRows, vectors.value>(out + d, head_dim, p, p_row, v + d, stride, keys);
  });
}

// 16 keys at a time, so that what is fetched ahead comes in small portions.
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

}  // namespace
}  // namespace longgen
