// Loss and optimizer.
#include "longgen/backend/cuda/device_math.cuh"

namespace longgen::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T>
__global__ void cross_entropy_kernel(float* losses, Rows dlogits, Rows logits,
                                     const int32_t* labels, float scale, ErrorFlag error) {
  __shared__ float shared[kThreads / 32];
  const int64_t n = logits.cols;
  for (int64_t t = blockIdx.x; t < logits.rows; t += gridDim.x) {
    const int32_t label = labels[t];
    T* d = dlogits.data != nullptr ? row<T>(dlogits, t) : nullptr;
    if (label < 0 || label >= n) {
      if (label != -1 && threadIdx.x == 0) atomicCAS(error.bad_id, 0, static_cast<int>(t) + 1);
      if (threadIdx.x == 0) losses[t] = 0;
      for (int64_t c = threadIdx.x; d != nullptr && c < n; c += kThreads) d[c] = from_float<T>(0);
      continue;
    }
    const float* z = row<float>(logits, t);
    float top = -INFINITY;
    for (int64_t c = threadIdx.x; c < n; c += kThreads) top = fmaxf(top, z[c]);
    top = block_max<kThreads>(top, shared);
    float sum = 0;
    for (int64_t c = threadIdx.x; c < n; c += kThreads) sum += expf(z[c] - top);
    sum = block_sum<kThreads>(sum, shared);
    const float lse = top + logf(sum);
    if (threadIdx.x == 0) losses[t] = lse - z[label];
    for (int64_t c = threadIdx.x; d != nullptr && c < n; c += kThreads) {
      d[c] = from_float<T>((expf(z[c] - lse) - (c == label ? 1.f : 0.f)) * scale);
    }
  }
}

template <typename T>
__global__ void square_partials(double* partials, Rows x) {
  __shared__ double shared[kThreads / 32];
  double sum = 0;
  const int64_t n = x.rows * x.cols;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < n;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    const double v = to_float(row<T>(x, i / x.cols)[i % x.cols]);
    sum += v * v;
  }
  sum = block_sum<kThreads>(sum, shared);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

__global__ void sum_partials(double* result, const double* partials) {
  __shared__ double shared[kThreads / 32];
  double sum = 0;
  for (int i = threadIdx.x; i < kSquareParts; i += kThreads) sum += partials[i];
  sum = block_sum<kThreads>(sum, shared);
  if (threadIdx.x == 0) *result = sum;
}

// Loshchilov and Hutter, arXiv 1711.05101.
template <typename T>
__global__ void adamw_kernel(T* weights, float* master, float* m, float* v, const float* gradient,
                             int64_t n, AdamWArgs a) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  const float g = gradient[i] * a.gradient_scale;
  const float mean = a.beta1 * m[i] + (1 - a.beta1) * g;
  const float square = a.beta2 * v[i] + (1 - a.beta2) * g * g;
  m[i] = mean;
  v[i] = square;
  const float update = mean / a.correct_m / (sqrtf(square / a.correct_v) + a.eps);
  const float w = master[i] - a.lr * (update + a.weight_decay * master[i]);
  master[i] = w;
  weights[i] = from_float<T>(w);
}

}  // namespace

void softmax_cross_entropy(float* losses, const Rows& dlogits, Element type, const Rows& logits,
                           const int32_t* labels, float scale, ErrorFlag error,
                           cudaStream_t stream) {
  if (logits.rows == 0) return;
  by_activation_type(type, [&](auto zero) {
    cross_entropy_kernel<decltype(zero)><<<blocks_for(logits.rows, 1), kThreads, 0, stream>>>(
        losses, dlogits, logits, labels, scale, error);
  });
}

void sum_of_squares(double* result, double* partials, const Rows& x, Element type,
                    cudaStream_t stream) {
  by_activation_type(type, [&](auto zero) {
    square_partials<decltype(zero)><<<kSquareParts, kThreads, 0, stream>>>(partials, x);
  });
  sum_partials<<<1, kThreads, 0, stream>>>(result, partials);
}

void adamw_step(void* weights, Element type, float* master, float* m, float* v,
                const float* gradient, int64_t n, const AdamWArgs& args, cudaStream_t stream) {
  if (n == 0) return;
  by_activation_type(type, [&](auto zero) {
    adamw_kernel<<<blocks_for(n, kThreads, INT32_MAX), kThreads, 0, stream>>>(
        static_cast<decltype(zero)*>(weights), master, m, v, gradient, n, args);
  });
}

}  // namespace longgen::cuda
