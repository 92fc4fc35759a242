// The inner loops of everything that is neither a product nor attention: one row, or one stretch of
// elements, on the calling thread. T is float, or uint16_t for bf16 (stored bits); arithmetic is
// f32. No function bodies here: see simd.h.
#pragma once

#include <cstdint>

#include "longgen/backend/cpu/row_types.h"

namespace longgen {

template <typename T>
struct RowKernels {
  // out = a + b; acc += a; out = value of bits (conversions to and from f32).
  void (*add)(T* out, const T* a, const T* b, int64_t n);
  void (*accumulate)(float* acc, const T* a, int64_t n);
  void (*to_float)(float* out, const T* a, int64_t n);
  void (*from_float)(T* out, const float* a, int64_t n);
  // out = c (+ bias) (+ base, which may be out): what follows a product. bias and base may be null.
  void (*finish_product)(T* out, const float* c, const float* bias, const T* base, int64_t n);
  double (*sum_of_squares)(const T* a, int64_t n);

  void (*norm_forward)(const NormRow& row, T* out, const T* x, const T* weight, const T* bias);
  // dweight and dbias may be null.
  void (*norm_backward)(const NormRow& row, T* dx, bool accumulate_dx, float* dweight, float* dbias,
                        const T* dy, const T* x, const T* weight);

  // heads at x, x + head_stride, ...
  void (*rope)(T* x, int64_t heads, int64_t head_stride, const float* cos, const float* sin,
               int64_t half, bool inverse);

  // up may be null.
  void (*activation_forward)(RowActivation act, T* out, const T* gate, const T* up, int64_t n);
  // And out, that of activation_forward, unless it is null.
  void (*activation_backward)(RowActivation act, T* out, T* dgate, T* dup, const T* dout,
                              const T* gate, const T* up, int64_t n);

  // Returns the loss of `label`; dlogits may be null.
  float (*cross_entropy)(T* dlogits, const float* logits, int64_t n, int64_t label, float scale);

  void (*adamw)(const AdamWFactors& f, T* weights, float* master, float* m, float* v,
                const float* gradient, int64_t n);
  // Without a master: elements `first` (even) ... of a tensor, bf16, rounded stochastically.
  void (*adamw_bf16)(const AdamWFactors& f, const RowRounding& rounding, int64_t first,
                     uint16_t* weights, uint16_t* m, uint16_t* v, const float* gradient, int64_t n);
};

extern const RowKernels<float> kRowKernelsF32Portable, kRowKernelsF32Avx2, kRowKernelsF32Avx512;
extern const RowKernels<uint16_t> kRowKernelsBf16Portable, kRowKernelsBf16Avx2,
    kRowKernelsBf16Avx512, kRowKernelsBf16Avx512Bf16;

}  // namespace longgen
