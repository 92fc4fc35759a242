// Rotary embedding and activations of wide_rows.h.
#include <type_traits>

#include "longgen/backend/cuda/activation.cuh"
#include "longgen/backend/cuda/dependent_launch.cuh"
#include "longgen/backend/cuda/wide_rows.cuh"
#include "longgen/backend/cuda/wide_rows.h"

namespace longgen::cuda {
namespace {

using Bf16 = __nv_bfloat16;
constexpr int kThreads = 256;

// A thread: eight channels of a head and the eight that they pair with.
__global__ void rope_kernel(Rows x, int64_t heads, const float* table, int64_t table_stride,
                            int half, int64_t table_rows, const int32_t* positions, bool inverse,
                            ErrorFlag error) {
  let_next_start();
  wait_for_inputs();
  const unsigned each = half / kVector;
  const unsigned i = blockIdx.x * kThreads + threadIdx.x;
  const unsigned r = i / each, t = r / static_cast<unsigned>(heads);
  if (r >= x.rows) return;
  const int c = static_cast<int>(i - r * each) * kVector;
  const int32_t position = positions[t];
  if (position < 0 || position >= table_rows) {
    if (c == 0) atomicCAS(error.bad_id, 0, static_cast<int>(t) + 1);
    return;
  }
  const float* angles = table + position * table_stride + c;
  Bf16* v = row<Bf16>(x, r) + c;
  Floats8 a = load8(v), b = load8(v + half);
#pragma unroll
  for (int j = 0; j < kVector; ++j) {
    const float cos = angles[j], sin = inverse ? -angles[half + j] : angles[half + j];
    const float first = a.v[j], second = b.v[j];
    a.v[j] = first * cos - second * sin;
    b.v[j] = second * cos + first * sin;
  }
  store8(v, a);
  store8(v + half, b);
}

template <int kActivation>
__global__ void activation_forward_kernel(Rows out, Rows gate, Rows up) {
  let_next_start();
  wait_for_inputs();
  const int64_t first = kVector * (blockIdx.y * kThreads + threadIdx.x);
  for (int64_t r = blockIdx.x; r < gate.rows; r += gridDim.x) {
    for (int64_t c = first; c < gate.cols; c += kVector * kThreads * gridDim.y) {
      Floats8 g = load8(row<Bf16>(gate, r) + c), u;
      if (up.data != nullptr) u = load8(row<Bf16>(up, r) + c);
#pragma unroll
      for (int j = 0; j < kVector; ++j) {
        const float value = activate(kActivation, g.v[j]).value;
        g.v[j] = up.data != nullptr ? value * u.v[j] : value;
      }
      store8(row<Bf16>(out, r) + c, g);
    }
  }
}

// Outputs may be the memory of inputs: a thread reads its elements before it writes them.
template <int kActivation>
__global__ void activation_backward_kernel(Rows dgate, Rows dup, Rows dout, Rows gate, Rows up) {
  for (int64_t r = blockIdx.x; r < gate.rows; r += gridDim.x) {
    for (int64_t c = kVector * threadIdx.x; c < gate.cols; c += kVector * kThreads) {
      Floats8 g = load8(row<Bf16>(gate, r) + c), d = load8(row<Bf16>(dout, r) + c), u;
      if (up.data != nullptr) u = load8(row<Bf16>(up, r) + c);
#pragma unroll
      for (int j = 0; j < kVector; ++j) {
        const ValueSlope a = activate(kActivation, g.v[j]);
        g.v[j] = d.v[j] * (up.data != nullptr ? u.v[j] : 1.f) * a.slope;
        u.v[j] = d.v[j] * a.value;
      }
      store8(row<Bf16>(dgate, r) + c, g);
      if (dup.data != nullptr) store8(row<Bf16>(dup, r) + c, u);
    }
  }
}

// Calls f with the activation as a constant.
template <typename F>
void by_activation(int activation, const F& f) {
  switch (activation) {
    case 0:
      return f(std::integral_constant<int, 0>());
    case 1:
      return f(std::integral_constant<int, 1>());
    case 2:
      return f(std::integral_constant<int, 2>());
    default:
      return f(std::integral_constant<int, 3>());
  }
}

}  // namespace

bool wide_rope(const Rows& x, int64_t heads, const float* table, int64_t table_stride, int64_t half,
               int64_t table_rows, const int32_t* positions, bool inverse, ErrorFlag error,
               cudaStream_t stream) {
  if (!is_wide(x) || half % kVector != 0 || half == 0) return false;
  const int64_t items = x.rows * (half / kVector);
  if (items > INT32_MAX) return false;  // 32-bit divisions
  launch_dependent(rope_kernel, blocks_for(items, kThreads, INT32_MAX), kThreads, stream, x, heads,
                   table, table_stride, static_cast<int>(half), table_rows, positions, inverse,
                   error);
  return true;
}

bool wide_activation_forward(int activation, const Rows& out, const Rows& gate, const Rows& up,
                             cudaStream_t stream) {
  if (!is_wide(out) || !is_wide(gate) || !is_wide(up)) return false;
  by_activation(activation, [&](auto kind) {
    // A few rows are cut into pieces.
    constexpr int64_t kFewRows = 64;
    const unsigned pieces =
        gate.rows <= kFewRows ? blocks_for(gate.cols, kVector * kThreads, kFewRows) : 1;
    launch_dependent(activation_forward_kernel<decltype(kind)::value>,
                     dim3(blocks_for(gate.rows, 1), pieces), kThreads, stream, out, gate, up);
  });
  return true;
}

bool wide_activation_backward(int activation, const Rows& dgate, const Rows& dup, const Rows& dout,
                              const Rows& gate, const Rows& up, cudaStream_t stream) {
  if (!is_wide(dgate) || !is_wide(dup) || !is_wide(dout) || !is_wide(gate) || !is_wide(up)) {
    return false;
  }
  by_activation(activation, [&](auto kind) {
    activation_backward_kernel<decltype(kind)::value>
        <<<blocks_for(gate.rows, 1), kThreads, 0, stream>>>(dgate, dup, dout, gate, up);
  });
  return true;
}

}  // namespace longgen::cuda
