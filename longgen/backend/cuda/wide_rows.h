// The same operations as launch.h's on rows of bf16 that are made of 16-byte pieces. They return
// false, having done nothing, for rows that are not: launch.h's own kernels take those.
#pragma once

#include "longgen/backend/cuda/launch.h"

namespace longgen::cuda {

bool wide_norm_forward(bool layer, const Rows& out, float* stats, int64_t stats_stride,
                       const Rows& x, const void* weight, const void* bias, float eps,
                       cudaStream_t stream);

// dx, and the sums over rows onto dweight and dbias (either may be null), in one pass. partials:
// kWidePartialFloats f32.
inline constexpr int64_t kWidePartialFloats = int64_t{2} * 4096 * 1024;
bool wide_norm_backward(bool layer, const Rows& dx, bool accumulate, float* dweight, float* dbias,
                        const Rows& dy, const Rows& x, const float* stats, int64_t stats_stride,
                        const void* weight, float* partials, cudaStream_t stream);

bool wide_rope(const Rows& x, int64_t heads, const float* table, int64_t table_stride, int64_t half,
               int64_t table_rows, const int32_t* positions, bool inverse, ErrorFlag error,
               cudaStream_t stream);

bool wide_activation_forward(int activation, Rows out, Rows gate, Rows up, cudaStream_t stream);
bool wide_activation_backward(int activation, Rows out, Rows dgate, Rows dup, Rows dout, Rows gate,
                              Rows up, cudaStream_t stream);

}  // namespace longgen::cuda
