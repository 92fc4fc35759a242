// Arguments of the row kernels; free of function bodies so that every instruction set may include
// it.
#pragma once

#include <cstdint>

namespace longgen {

enum class RowActivation : uint8_t { kSilu, kGelu, kGeluTanh, kRelu };

struct NormRow {
  bool layer;  // else RMS
  int64_t d;
  float eps;     // forward
  float* stats;  // (mean, reciprocal deviation); written forward unless null, read backward
};

// p -= lr * (m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) + decay * p), corrections folded
// in.
struct AdamWFactors {
  float beta1, beta2, one_minus_beta1, one_minus_beta2;
  float gradient_scale;
  float m_factor;  // lr / (1 - beta1^t)
  float v_factor;  // 1 / (1 - beta2^t)
  float eps;
  float decay;  // lr * weight decay
};

// Which random numbers round; see backend/stochastic_rounding.h.
struct RowRounding {
  uint64_t seed, stream;
};

}  // namespace longgen
