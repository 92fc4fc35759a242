// Rotary embedding and activations of wide_rows.h.
#include <initializer_list>
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

// Pieces that a thread has on their way at once.
constexpr int kAhead = 2;

template <int kActivation>
__global__ void activation_forward_kernel(Rows out, Rows gate, Rows up) {
  let_next_start();
  wait_for_inputs();
  const int64_t step = int64_t{kVector} * kThreads * gridDim.y;
  const int64_t first = kVector * (blockIdx.y * kThreads + threadIdx.x);
  for (int64_t r = blockIdx.x; r < gate.rows; r += gridDim.x) {
    for (int64_t begin = first; begin < gate.cols; begin += kAhead * step) {
      uint4 gates[kAhead], ups[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int64_t c = begin + i * step;
        if (c >= gate.cols) break;
        gates[i] = fetch8(row<Bf16>(gate, r) + c);
        if (up.data != nullptr) ups[i] = fetch8(row<Bf16>(up, r) + c);
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int64_t c = begin + i * step;
        if (c >= gate.cols) break;
        Floats8 g = floats8(gates[i]), u;
        if (up.data != nullptr) u = floats8(ups[i]);
#pragma unroll
        for (int j = 0; j < kVector; ++j) {
          const float value = activate(kActivation, g.v[j]).value;
          g.v[j] = up.data != nullptr ? value * u.v[j] : value;
        }
        store8(row<Bf16>(out, r) + c, g);
      }
    }
  }
}

// Outputs may be the memory of inputs: a thread reads its elements before it writes them.
template <int kActivation>
__global__ void activation_backward_kernel(Rows out, Rows dgate, Rows dup, Rows dout, Rows gate,
                                           Rows up) {
  constexpr int64_t kStep = kVector * kThreads;
  for (int64_t r = blockIdx.x; r < gate.rows; r += gridDim.x) {
    for (int64_t begin = kVector * threadIdx.x; begin < gate.cols; begin += kAhead * kStep) {
      uint4 gates[kAhead], ups[kAhead], douts[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int64_t c = begin + i * kStep;
        if (c >= gate.cols) break;
        gates[i] = fetch8(row<Bf16>(gate, r) + c);
        douts[i] = fetch8(row<Bf16>(dout, r) + c);
        if (up.data != nullptr) ups[i] = fetch8(row<Bf16>(up, r) + c);
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int64_t c = begin + i * kStep;
        if (c >= gate.cols) break;
        Floats8 g = floats8(gates[i]), u, forward;
        const Floats8 d = floats8(douts[i]);
        if (up.data != nullptr) u = floats8(ups[i]);
#pragma unroll
        for (int j = 0; j < kVector; ++j) {
          const ValueSlope a = activate(kActivation, g.v[j]);
          forward.v[j] = up.data != nullptr ? a.value * u.v[j] : a.value;
          g.v[j] = d.v[j] * (up.data != nullptr ? u.v[j] : 1.f) * a.slope;
          u.v[j] = d.v[j] * a.value;
        }
        store8(row<Bf16>(dgate, r) + c, g);
        if (dup.data != nullptr) store8(row<Bf16>(dup, r) + c, u);
        if (out.data != nullptr) store8(row<Bf16>(out, r) + c, forward);
      }
    }
  }
}

// Fewer rows are cut into pieces.
constexpr int64_t kFewRows = 64;

// Operands without gaps between their rows are one long row, cut into rows that fill a block;
// false, and nothing changed, where one is not so.
bool cut_evenly(std::initializer_list<Rows*> operands) {
  constexpr int64_t kEven = int64_t{kAhead} * kVector * kThreads;
  for (const Rows* x : operands) {
    const bool whole = x->inner == 1 && (x->rows == 1 || x->outer_stride == x->cols);
    if (x->data != nullptr && (!whole || x->rows * x->cols % kEven != 0)) return false;
  }
  for (Rows* x : operands) {
    if (x->data == nullptr) continue;
    *x = {.data = x->data, .rows = x->rows * x->cols / kEven, .cols = kEven, .outer_stride = kEven};
  }
  return true;
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

bool wide_activation_forward(int activation, Rows out, Rows gate, Rows up, cudaStream_t stream) {
  if (!is_wide(out) || !is_wide(gate) || !is_wide(up)) return false;
  if (gate.rows > kFewRows) cut_evenly({&out, &gate, &up});
  by_activation(activation, [&](auto kind) {
    const unsigned pieces =
        gate.rows <= kFewRows ? blocks_for(gate.cols, kVector * kThreads, kFewRows) : 1;
    launch_dependent(activation_forward_kernel<decltype(kind)::value>,
                     dim3(blocks_for(gate.rows, 1), pieces), kThreads, stream, out, gate, up);
  });
  return true;
}

bool wide_activation_backward(int activation, Rows out, Rows dgate, Rows dup, Rows dout, Rows gate,
                              Rows up, cudaStream_t stream) {
  for (const Rows* x : {&out, &dgate, &dup, &dout, &gate, &up}) {
    if (!is_wide(*x)) return false;
  }
  cut_evenly({&out, &dgate, &dup, &dout, &gate, &up});
  by_activation(activation, [&](auto kind) {
    activation_backward_kernel<decltype(kind)::value>
        <<<blocks_for(gate.rows, 1), kThreads, 0, stream>>>(out, dgate, dup, dout, gate, up);
  });
  return true;
}

}  // namespace longgen::cuda
