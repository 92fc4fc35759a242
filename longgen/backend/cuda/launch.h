// Launchers of the row-by-row kernels: pointers, strides and a stream; no Tensor, no globals, so
// that other programs can link them. They return at once; errors come out of the stream.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace longgen::cuda {

// Element types that kernels are instantiated for; the values of DType that they stand for.
enum class Element : uint8_t { kF64, kF32, kF16, kBF16 };

// [rows, cols]: row r begins at element (r / inner) * outer_stride + (r % inner) * inner_stride.
// A matrix has inner 1.
struct Rows {
  void* data = nullptr;
  int64_t rows = 0, cols = 0;
  int64_t inner = 1;
  int64_t outer_stride = 0, inner_stride = 0;
};

// Where kernels report a bad id: 0 is fine, else 1 + the row of the first one seen.
struct ErrorFlag {
  int* bad_id = nullptr;
};

// dst = src, converted with round to nearest even.
void convert_rows(const Rows& dst, Element dst_type, const Rows& src, Element src_type,
                  cudaStream_t stream);
void zero_rows(const Rows& x, int64_t element_bytes, cudaStream_t stream);

void embedding_forward(const Rows& out, const Rows& table, const int32_t* ids, bool accumulate,
                       Element type, ErrorFlag error, cudaStream_t stream);
// dtable f32 [V, d] += the rows of dout by id; every row's sum runs in ascending t, and is added at
// once. workspace: embedding_backward_ints; a bad id is reported as row `first` + t.
int64_t embedding_backward_ints(int64_t vocabulary, int64_t rows);
void embedding_backward(const Rows& dtable, const Rows& dout, const int32_t* ids, int64_t first,
                        int32_t* workspace, Element type, ErrorFlag error, cudaStream_t stream);

// stats f32 [rows, 2] (mean, reciprocal deviation), may be null; bias may be null.
void norm_forward(bool layer, const Rows& out, float* stats, int64_t stats_stride, const Rows& x,
                  const void* weight, const void* bias, float eps, Element type,
                  cudaStream_t stream);
void norm_backward_input(bool layer, const Rows& dx, bool accumulate, const Rows& dy, const Rows& x,
                         const float* stats, int64_t stats_stride, const void* weight, Element type,
                         cudaStream_t stream);
// Sums over rows in two fixed steps: `parts` pieces of the rows into partials f32 [2, parts, d],
// then those in order onto dweight and dbias f32 [d] (either may be null).
void norm_backward_weight(float* dweight, float* dbias, const Rows& dy, const Rows& x,
                          const float* stats, int64_t stats_stride, float* partials, int64_t parts,
                          Element type, cudaStream_t stream);
// dbias f32 [n] += column sums of dy; partials f32 [parts, n].
void column_sums(float* dbias, const Rows& dy, float* partials, int64_t parts, Element type,
                 cudaStream_t stream);
// y += bias [n], broadcast over rows.
void add_bias(const Rows& y, Element y_type, const void* bias, Element bias_type,
              cudaStream_t stream);

// x [T, heads, head_dim] as Rows of T * heads rows.
void rope(const Rows& x, int64_t heads, const float* table, int64_t table_stride, int64_t half,
          int64_t table_rows, const int32_t* positions, bool inverse, Element type, ErrorFlag error,
          cudaStream_t stream);

// activation: the value of longgen::Activation. up may have null data.
void activation_forward(int activation, const Rows& out, const Rows& gate, const Rows& up,
                        Element type, cudaStream_t stream);
// out, which may have null data, receives what activation_forward would write.
void activation_backward(int activation, const Rows& out, const Rows& dgate, const Rows& dup,
                         const Rows& dout, const Rows& gate, const Rows& up, Element type,
                         cudaStream_t stream);
void add(const Rows& out, const Rows& a, const Rows& b, Element type, cudaStream_t stream);

// logits f32 [T, V]; dlogits (its data may be null) of `type`.
void softmax_cross_entropy(float* losses, const Rows& dlogits, Element type, const Rows& logits,
                           const int32_t* labels, float scale, ErrorFlag error,
                           cudaStream_t stream);

// result f64 [1]; partials f64 [kSquareParts].
inline constexpr int kSquareParts = 1024;
void sum_of_squares(double* result, double* partials, const Rows& x, Element type,
                    cudaStream_t stream);

struct AdamWArgs {
  float lr, beta1, beta2, eps, weight_decay, gradient_scale;
  float correct_m, correct_v;  // 1 - beta^step
};
// weights may be the master.
void adamw_step(void* weights, Element type, float* master, float* m, float* v,
                const float* gradient, int64_t n, const AdamWArgs& args, cudaStream_t stream);
// Without a master: bf16 at multiples of 16 bytes, rounded as backend/stochastic_rounding.h says.
void adamw_step_bf16(void* weights, void* m, void* v, const float* gradient, int64_t n,
                     const AdamWArgs& args, uint64_t seed, uint64_t rounding_stream,
                     cudaStream_t stream);

}  // namespace longgen::cuda
