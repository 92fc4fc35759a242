// Moving, norms, rotary embedding, pointwise.
#include "longgen/backend/cuda/activation.cuh"
#include "longgen/backend/cuda/device_math.cuh"
#include "longgen/backend/cuda/wide_rows.h"

namespace longgen::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

// --- moving ---

__device__ double load_double(const double* p) { return *p; }
__device__ double load_double(const float* p) { return *p; }
__device__ double load_double(const __half* p) { return __half2float(*p); }
__device__ double load_double(const __nv_bfloat16* p) { return __bfloat162float(*p); }

// The f32 neighbour towards zero with its last bit set unless exact ("round to odd"): rounding it
// again to a shorter type then equals rounding x once.
__device__ float to_odd_float(double x) {
  const float down = __double2float_rz(x);
  if (static_cast<double>(down) == x || isnan(x) || isinf(down)) return __double2float_rn(x);
  return __uint_as_float(__float_as_uint(down) | 1u);
}
__device__ void store_double(double* p, double x) { *p = x; }
__device__ void store_double(float* p, double x) { *p = __double2float_rn(x); }
__device__ void store_double(__half* p, double x) { *p = __float2half_rn(to_odd_float(x)); }
__device__ void store_double(__nv_bfloat16* p, double x) {
  *p = __float2bfloat16_rn(to_odd_float(x));
}

// f64 only where it is asked for: its arithmetic is slow.
template <typename To, typename From>
__device__ void convert(To* to, const From* from) {
  if constexpr (sizeof(To) == 8 || sizeof(From) == 8) {
    store_double(to, load_double(from));
  } else if constexpr (std::is_same_v<To, float>) {
    *to = static_cast<float>(*from);
  } else if constexpr (std::is_same_v<To, __half>) {
    *to = __float2half_rn(static_cast<float>(*from));
  } else {
    *to = __float2bfloat16_rn(static_cast<float>(*from));
  }
}

template <typename To, typename From>
__global__ void convert_kernel(Rows dst, Rows src) {
  for (int64_t r = blockIdx.x; r < src.rows; r += gridDim.x) {
    To* to = row<To>(dst, r);
    const From* from = row<From>(src, r);
    for (int64_t c = threadIdx.x; c < src.cols; c += blockDim.x) {
      if constexpr (std::is_same_v<To, From>) {
        to[c] = from[c];
      } else {
        convert(to + c, from + c);
      }
    }
  }
}

template <typename F>
void by_element(Element type, const F& f) {
  switch (type) {
    case Element::kF64:
      return f(double{});
    case Element::kF32:
      return f(float{});
    case Element::kF16:
      return f(__half{});
    case Element::kBF16:
      return f(__nv_bfloat16{});
  }
}

__global__ void zero_kernel(Rows x, int64_t element_bytes) {
  for (int64_t r = blockIdx.x; r < x.rows; r += gridDim.x) {
    auto* to = static_cast<unsigned char*>(x.data) + row_offset(x, r) * element_bytes;
    for (int64_t c = threadIdx.x; c < x.cols * element_bytes; c += blockDim.x) to[c] = 0;
  }
}

// --- norms: one warp a row ---

template <typename T>
__global__ void norm_forward_kernel(bool layer, Rows out, float* stats, int64_t stats_stride,
                                    Rows x, const T* weight, const T* bias, float eps) {
  const int lane = threadIdx.x % 32;
  const int64_t r = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (r >= x.rows) return;
  const T* in = row<T>(x, r);
  T* to = row<T>(out, r);
  const float n = static_cast<float>(x.cols);
  float mean = 0;
  if (layer) {
    float sum = 0;
    for (int64_t c = lane; c < x.cols; c += 32) sum += to_float(in[c]);
    mean = warp_sum(sum) / n;
  }
  float squares = 0;
  for (int64_t c = lane; c < x.cols; c += 32) {
    const float d = to_float(in[c]) - mean;
    squares += d * d;
  }
  const float rstd = 1 / sqrtf(warp_sum(squares) / n + eps);
  for (int64_t c = lane; c < x.cols; c += 32) {
    const float y = (to_float(in[c]) - mean) * rstd * to_float(weight[c]);
    to[c] = from_float<T>(bias != nullptr ? y + to_float(bias[c]) : y);
  }
  if (stats != nullptr && lane == 0) {
    stats[r * stats_stride] = mean;
    stats[r * stats_stride + 1] = rstd;
  }
}

// With h = (x - mean) rstd and g = dy weight: dx = rstd (g - [mean g] - h mean(g h)).
template <typename T>
__global__ void norm_backward_kernel(bool layer, Rows dx, bool accumulate, Rows dy, Rows x,
                                     const float* stats, int64_t stats_stride, const T* weight) {
  const int lane = threadIdx.x % 32;
  const int64_t r = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (r >= x.rows) return;
  const T *in = row<T>(x, r), *g = row<T>(dy, r);
  T* to = row<T>(dx, r);
  const float n = static_cast<float>(x.cols);
  const float mean = stats[r * stats_stride], rstd = stats[r * stats_stride + 1];
  float sum_g = 0, sum_gh = 0;
  for (int64_t c = lane; c < x.cols; c += 32) {
    const float gw = to_float(g[c]) * to_float(weight[c]);
    sum_g += gw;
    sum_gh += gw * (to_float(in[c]) - mean) * rstd;
  }
  const float mean_g = layer ? warp_sum(sum_g) / n : 0;
  const float mean_gh = warp_sum(sum_gh) / n;
  for (int64_t c = lane; c < x.cols; c += 32) {
    const float gw = to_float(g[c]) * to_float(weight[c]);
    const float h = (to_float(in[c]) - mean) * rstd;
    const float d = rstd * (gw - mean_g - h * mean_gh);
    to[c] = from_float<T>(accumulate ? to_float(to[c]) + d : d);
  }
}

// Thread: a column; blockIdx.y: a part of the rows.
template <typename T>
__global__ void norm_weight_partials(Rows dy, Rows x, const float* stats, int64_t stats_stride,
                                     float* partials, int64_t parts) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (c >= x.cols) return;
  const int64_t part = blockIdx.y;
  float weight = 0, bias = 0;
  for (int64_t r = x.rows * part / parts; r < x.rows * (part + 1) / parts; ++r) {
    const float g = to_float(row<T>(dy, r)[c]);
    const float h =
        (to_float(row<T>(x, r)[c]) - stats[r * stats_stride]) * stats[r * stats_stride + 1];
    weight += g * h;
    bias += g;
  }
  partials[part * x.cols + c] = weight;
  partials[(parts + part) * x.cols + c] = bias;
}

template <typename T>
__global__ void column_partials(Rows x, float* partials, int64_t parts) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (c >= x.cols) return;
  const int64_t part = blockIdx.y;
  float sum = 0;
  for (int64_t r = x.rows * part / parts; r < x.rows * (part + 1) / parts; ++r) {
    sum += to_float(row<T>(x, r)[c]);
  }
  partials[part * x.cols + c] = sum;
}

__global__ void add_partials(float* out, const float* partials, int64_t parts, int64_t n) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (c >= n) return;
  float sum = 0;
  for (int64_t p = 0; p < parts; ++p) sum += partials[p * n + c];
  out[c] += sum;
}

template <typename Y, typename B>
__global__ void add_bias_kernel(Rows y, const B* bias) {
  for (int64_t r = blockIdx.x; r < y.rows; r += gridDim.x) {
    Y* to = row<Y>(y, r);
    for (int64_t c = threadIdx.x; c < y.cols; c += blockDim.x) {
      to[c] = from_float<Y>(to_float(to[c]) + to_float(bias[c]));
    }
  }
}

// --- rotary embedding ---

template <typename T>
__global__ void rope_kernel(Rows x, int64_t heads, const float* table, int64_t table_stride,
                            int64_t half, int64_t table_rows, const int32_t* positions,
                            bool inverse, ErrorFlag error) {
  const int64_t per_block = blockDim.x / 32;
  const int lane = threadIdx.x % 32;
  for (int64_t r = blockIdx.x * per_block + threadIdx.x / 32; r < x.rows;
       r += gridDim.x * per_block) {
    const int32_t position = positions[r / heads];
    if (position < 0 || position >= table_rows) {
      if (lane == 0) atomicCAS(error.bad_id, 0, static_cast<int>(r / heads) + 1);
      continue;
    }
    const float* angles = table + position * table_stride;
    T* v = row<T>(x, r);
    for (int64_t c = lane; c < half; c += 32) {
      const float cos = angles[c], sin = inverse ? -angles[half + c] : angles[half + c];
      const float a = to_float(v[c]), b = to_float(v[c + half]);
      v[c] = from_float<T>(a * cos - b * sin);
      v[c + half] = from_float<T>(b * cos + a * sin);
    }
  }
}

// --- pointwise ---

template <typename T>
__global__ void activation_forward_kernel(int activation, Rows out, Rows gate, Rows up) {
  for (int64_t r = blockIdx.x; r < gate.rows; r += gridDim.x) {
    const T* g = row<T>(gate, r);
    T* to = row<T>(out, r);
    for (int64_t c = threadIdx.x; c < gate.cols; c += blockDim.x) {
      const float value = activate(activation, to_float(g[c])).value;
      to[c] = from_float<T>(up.data != nullptr ? value * to_float(row<T>(up, r)[c]) : value);
    }
  }
}

template <typename T>
__global__ void activation_backward_kernel(int activation, Rows out, Rows dgate, Rows dup,
                                           Rows dout, Rows gate, Rows up) {
  for (int64_t r = blockIdx.x; r < gate.rows; r += gridDim.x) {
    for (int64_t c = threadIdx.x; c < gate.cols; c += blockDim.x) {
      const ValueSlope a = activate(activation, to_float(row<T>(gate, r)[c]));
      const float g = to_float(row<T>(dout, r)[c]);
      const float u = up.data != nullptr ? to_float(row<T>(up, r)[c]) : 1;
      if (out.data != nullptr) {
        row<T>(out, r)[c] = from_float<T>(up.data != nullptr ? a.value * u : a.value);
      }
      row<T>(dgate, r)[c] = from_float<T>(g * u * a.slope);
      if (dup.data != nullptr) row<T>(dup, r)[c] = from_float<T>(g * a.value);
    }
  }
}

template <typename T>
__global__ void add_kernel(Rows out, Rows a, Rows b) {
  for (int64_t r = blockIdx.x; r < a.rows; r += gridDim.x) {
    for (int64_t c = threadIdx.x; c < a.cols; c += blockDim.x) {
      row<T>(out, r)[c] = from_float<T>(to_float(row<T>(a, r)[c]) + to_float(row<T>(b, r)[c]));
    }
  }
}

int threads_for(int64_t cols) { return cols >= kThreads ? kThreads : cols > 64 ? 128 : 32; }

dim3 column_grid(int64_t cols, int64_t parts) {
  return dim3(blocks_for(cols, kThreads), static_cast<unsigned>(parts));
}

}  // namespace

void convert_rows(const Rows& dst, Element dst_type, const Rows& src, Element src_type,
                  cudaStream_t stream) {
  if (src.rows == 0) return;
  by_element(dst_type, [&](auto to) {
    by_element(src_type, [&](auto from) {
      convert_kernel<decltype(to), decltype(from)>
          <<<blocks_for(src.rows, 1), threads_for(src.cols), 0, stream>>>(dst, src);
    });
  });
}

void zero_rows(const Rows& x, int64_t element_bytes, cudaStream_t stream) {
  if (x.rows == 0) return;
  zero_kernel<<<blocks_for(x.rows, 1), kThreads, 0, stream>>>(x, element_bytes);
}

void norm_forward(bool layer, const Rows& out, float* stats, int64_t stats_stride, const Rows& x,
                  const void* weight, const void* bias, float eps, Element type,
                  cudaStream_t stream) {
  if (x.rows == 0) return;
  if (type == Element::kBF16 &&
      wide_norm_forward(layer, out, stats, stats_stride, x, weight, bias, eps, stream)) {
    return;
  }
  by_activation_type(type, [&](auto zero) {
    using T = decltype(zero);
    norm_forward_kernel<T><<<blocks_for(x.rows, kWarps, INT32_MAX), kThreads, 0, stream>>>(
        layer, out, stats, stats_stride, x, static_cast<const T*>(weight),
        static_cast<const T*>(bias), eps);
  });
}

void norm_backward_input(bool layer, const Rows& dx, bool accumulate, const Rows& dy, const Rows& x,
                         const float* stats, int64_t stats_stride, const void* weight, Element type,
                         cudaStream_t stream) {
  if (x.rows == 0) return;
  by_activation_type(type, [&](auto zero) {
    using T = decltype(zero);
    norm_backward_kernel<T><<<blocks_for(x.rows, kWarps, INT32_MAX), kThreads, 0, stream>>>(
        layer, dx, accumulate, dy, x, stats, stats_stride, static_cast<const T*>(weight));
  });
}

void norm_backward_weight(float* dweight, float* dbias, const Rows& dy, const Rows& x,
                          const float* stats, int64_t stats_stride, float* partials, int64_t parts,
                          Element type, cudaStream_t stream) {
  if (x.rows == 0) return;
  by_activation_type(type, [&](auto zero) {
    norm_weight_partials<decltype(zero)><<<column_grid(x.cols, parts), kThreads, 0, stream>>>(
        dy, x, stats, stats_stride, partials, parts);
  });
  const unsigned blocks = blocks_for(x.cols, kThreads);
  if (dweight != nullptr) {
    add_partials<<<blocks, kThreads, 0, stream>>>(dweight, partials, parts, x.cols);
  }
  if (dbias != nullptr) {
    add_partials<<<blocks, kThreads, 0, stream>>>(dbias, partials + parts * x.cols, parts, x.cols);
  }
}

void column_sums(float* dbias, const Rows& dy, float* partials, int64_t parts, Element type,
                 cudaStream_t stream) {
  if (dy.rows == 0) return;
  by_activation_type(type, [&](auto zero) {
    column_partials<decltype(zero)>
        <<<column_grid(dy.cols, parts), kThreads, 0, stream>>>(dy, partials, parts);
  });
  add_partials<<<blocks_for(dy.cols, kThreads), kThreads, 0, stream>>>(dbias, partials, parts,
                                                                       dy.cols);
}

void add_bias(const Rows& y, Element y_type, const void* bias, Element bias_type,
              cudaStream_t stream) {
  if (y.rows == 0) return;
  by_activation_type(y_type, [&](auto y_zero) {
    by_activation_type(bias_type, [&](auto b_zero) {
      using B = decltype(b_zero);
      add_bias_kernel<decltype(y_zero), B>
          <<<blocks_for(y.rows, 1), threads_for(y.cols), 0, stream>>>(y,
                                                                      static_cast<const B*>(bias));
    });
  });
}

void rope(const Rows& x, int64_t heads, const float* table, int64_t table_stride, int64_t half,
          int64_t table_rows, const int32_t* positions, bool inverse, Element type, ErrorFlag error,
          cudaStream_t stream) {
  if (x.rows == 0) return;
  if (type == Element::kBF16 && wide_rope(x, heads, table, table_stride, half, table_rows,
                                          positions, inverse, error, stream)) {
    return;
  }
  by_activation_type(type, [&](auto zero) {
    rope_kernel<decltype(zero)><<<blocks_for(x.rows, kWarps), kThreads, 0, stream>>>(
        x, heads, table, table_stride, half, table_rows, positions, inverse, error);
  });
}

void activation_forward(int activation, const Rows& out, const Rows& gate, const Rows& up,
                        Element type, cudaStream_t stream) {
  if (gate.rows == 0) return;
  if (type == Element::kBF16 && wide_activation_forward(activation, out, gate, up, stream)) return;
  by_activation_type(type, [&](auto zero) {
    activation_forward_kernel<decltype(zero)>
        <<<blocks_for(gate.rows, 1), threads_for(gate.cols), 0, stream>>>(activation, out, gate,
                                                                          up);
  });
}

void activation_backward(int activation, const Rows& out, const Rows& dgate, const Rows& dup,
                         const Rows& dout, const Rows& gate, const Rows& up, Element type,
                         cudaStream_t stream) {
  if (gate.rows == 0) return;
  if (type == Element::kBF16 &&
      wide_activation_backward(activation, out, dgate, dup, dout, gate, up, stream)) {
    return;
  }
  by_activation_type(type, [&](auto zero) {
    activation_backward_kernel<decltype(zero)>
        <<<blocks_for(gate.rows, 1), threads_for(gate.cols), 0, stream>>>(activation, out, dgate,
                                                                          dup, dout, gate, up);
  });
}

void add(const Rows& out, const Rows& a, const Rows& b, Element type, cudaStream_t stream) {
  if (a.rows == 0) return;
  by_activation_type(type, [&](auto zero) {
    add_kernel<decltype(zero)>
        <<<blocks_for(a.rows, 1), threads_for(a.cols), 0, stream>>>(out, a, b);
  });
}

}  // namespace longgen::cuda
