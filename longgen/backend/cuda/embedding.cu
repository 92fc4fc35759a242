// Embedding: rows of the table, and their gradient.
#include "longgen/backend/cuda/device_math.cuh"

namespace longgen::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T>
__global__ void forward_kernel(Rows out, Rows table, const int32_t* ids, bool accumulate,
                               ErrorFlag error) {
  for (int64_t t = blockIdx.x; t < out.rows; t += gridDim.x) {
    const int32_t id = ids[t];
    if (id < 0 || id >= table.rows) {
      if (threadIdx.x == 0) atomicCAS(error.bad_id, 0, static_cast<int>(t) + 1);
      continue;
    }
    const T* from = row<T>(table, id);
    T* to = row<T>(out, t);
    for (int64_t c = threadIdx.x; c < table.cols; c += blockDim.x) {
      to[c] = accumulate ? from_float<T>(to_float(to[c]) + to_float(from[c])) : from[c];
    }
  }
}

// --- the gradient: the tokens of each id are listed, put in order, and their rows added ---

__global__ void count_ids(int32_t* counts, int64_t vocabulary, const int32_t* ids, int64_t n,
                          int64_t first, ErrorFlag error) {
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (t >= n) return;
  const int32_t id = ids[t];
  if (id < 0 || id >= vocabulary) {
    atomicCAS(error.bad_id, 0, static_cast<int>(first + t) + 1);
  } else {
    atomicAdd(counts + id, 1);
  }
}

// counts [n] become the sums of those before them, twice: begins keeps them, counts moves on. One
// block.
constexpr int kScanThreads = 1024;
__global__ void begins_of(int32_t* begins, int32_t* counts, int64_t n) {
  __shared__ int32_t sums[kScanThreads];
  const int64_t each = (n + kScanThreads - 1) / kScanThreads;
  const int64_t begin = min(n, threadIdx.x * each), end = min(n, begin + each);
  int32_t sum = 0;
  for (int64_t i = begin; i < end; ++i) sum += counts[i];
  sums[threadIdx.x] = sum;
  __syncthreads();
  for (int step = 1; step < kScanThreads; step *= 2) {
    const int32_t before = threadIdx.x >= step ? sums[threadIdx.x - step] : 0;
    __syncthreads();
    sums[threadIdx.x] += before;
    __syncthreads();
  }
  int32_t at = sums[threadIdx.x] - sum;
  for (int64_t i = begin; i < end; ++i) {
    const int32_t count = counts[i];
    begins[i] = counts[i] = at;
    at += count;
  }
}

// A list's order is any.
__global__ void list_tokens(int32_t* tokens, int32_t* ends, int64_t vocabulary, const int32_t* ids,
                            int64_t n) {
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (t >= n) return;
  const int32_t id = ids[t];
  if (id >= 0 && id < vocabulary) tokens[atomicAdd(ends + id, 1)] = static_cast<int32_t>(t);
}

constexpr int kChannels = 1024;  // of a block
constexpr int kEach = kChannels / kThreads;
constexpr int kListed = 1024;  // tokens put in order together
constexpr int kTogether = 8;   // rows on their way together

template <typename T>
__device__ void add_tokens(float (&sum)[kEach], const Rows& dout, const int32_t* tokens, int n,
                           int64_t first_channel) {
  for (int j = 0; j < n; j += kTogether) {
    T values[kTogether][kEach];
#pragma unroll
    for (int u = 0; u < kTogether; ++u) {
      const T* from = row<T>(dout, tokens[min(j + u, n - 1)]) + first_channel;
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int c = i * kThreads + static_cast<int>(threadIdx.x);
        values[u][i] = first_channel + c < dout.cols ? from[c] : from_float<T>(0);
      }
    }
#pragma unroll
    for (int u = 0; u < kTogether; ++u) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        if (j + u < n) sum[i] += to_float(values[u][i]);
      }
    }
  }
}

// A list that fits: every token counts those before it. Ends at a barrier.
__device__ void sort_tokens(int32_t* sorted, int32_t* listed, const int32_t* tokens, int n) {
  for (int i = threadIdx.x; i < n; i += kThreads) listed[i] = tokens[i];
  __syncthreads();
  for (int i = threadIdx.x; i < n; i += kThreads) {
    const int32_t token = listed[i];
    int rank = 0;
    for (int j = 0; j < n; ++j) rank += listed[j] < token;
    sorted[rank] = token;
  }
  __syncthreads();
}

// A longer one, of which there are few, is found again in the ids: those equal to `id` among the
// kThreads from t0 on are appended to found [n] in order. Returns the new n; ends at a barrier.
__device__ int find_tokens(int32_t* found, int* warp_counts, int n, const int32_t* ids, int64_t t0,
                           int64_t rows, int32_t id) {
  const int64_t t = t0 + threadIdx.x;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const bool hit = t < rows && ids[t] == id;
  const unsigned hits = __ballot_sync(0xffffffffu, hit);
  if (lane == 0) warp_counts[warp] = __popc(hits);
  __syncthreads();
  int before = n, all = n;
  for (int w = 0; w < kThreads / 32; ++w) {
    before += w < warp ? warp_counts[w] : 0;
    all += warp_counts[w];
  }
  if (hit) found[before + __popc(hits & ((1u << lane) - 1))] = static_cast<int32_t>(t);
  __syncthreads();
  return all;
}

// A block: an id and kChannels channels.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(Rows dtable, Rows dout, const int32_t* ids, const int32_t* begins,
                    const int32_t* ends, const int32_t* tokens) {
  __shared__ int32_t sorted[kListed], listed[kListed];
  __shared__ int warp_counts[kThreads / 32];
  const auto id = static_cast<int32_t>(blockIdx.x);
  const int64_t first_channel = static_cast<int64_t>(blockIdx.y) * kChannels;
  const int n = ends[id] - begins[id];
  if (n == 0) return;
  float sum[kEach] = {};
  if (n <= kListed) {
    sort_tokens(sorted, listed, tokens + begins[id], n);
    add_tokens<T>(sum, dout, sorted, n, first_channel);
  } else {
    int found = 0;
    for (int64_t t0 = 0; t0 < dout.rows; t0 += kThreads) {
      found = find_tokens(sorted, warp_counts, found, ids, t0, dout.rows, id);
      if (found + kThreads <= kListed && t0 + kThreads < dout.rows) continue;
      add_tokens<T>(sum, dout, sorted, found, first_channel);
      found = 0;
      __syncthreads();
    }
  }
  float* to = row<float>(dtable, id) + first_channel;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int64_t c = i * kThreads + static_cast<int>(threadIdx.x);
    if (first_channel + c < dtable.cols) to[c] += sum[i];
  }
}

}  // namespace

void embedding_forward(const Rows& out, const Rows& table, const int32_t* ids, bool accumulate,
                       Element type, ErrorFlag error, cudaStream_t stream) {
  if (out.rows == 0) return;
  const int threads = table.cols >= kThreads ? kThreads : table.cols > 64 ? 128 : 32;
  by_activation_type(type, [&](auto zero) {
    forward_kernel<decltype(zero)>
        <<<blocks_for(out.rows, 1), threads, 0, stream>>>(out, table, ids, accumulate, error);
  });
}

int64_t embedding_backward_ints(int64_t vocabulary, int64_t rows) { return 2 * vocabulary + rows; }

void embedding_backward(const Rows& dtable, const Rows& dout, const int32_t* ids, int64_t first,
                        int32_t* workspace, Element type, ErrorFlag error, cudaStream_t stream) {
  if (dout.rows == 0 || dtable.rows == 0) return;
  const int64_t vocabulary = dtable.rows;
  int32_t *begins = workspace, *ends = begins + vocabulary, *tokens = ends + vocabulary;
  const auto blocks = static_cast<unsigned>((dout.rows + kThreads - 1) / kThreads);
  cudaMemsetAsync(ends, 0, static_cast<size_t>(vocabulary) * sizeof(int32_t), stream);
  count_ids<<<blocks, kThreads, 0, stream>>>(ends, vocabulary, ids, dout.rows, first, error);
  begins_of<<<1, kScanThreads, 0, stream>>>(begins, ends, vocabulary);
  list_tokens<<<blocks, kThreads, 0, stream>>>(tokens, ends, vocabulary, ids, dout.rows);
  const dim3 grid(static_cast<unsigned>(vocabulary), blocks_for(dtable.cols, kChannels));
  by_activation_type(type, [&](auto zero) {
    backward_kernel<decltype(zero)>
        <<<grid, kThreads, 0, stream>>>(dtable, dout, ids, begins, ends, tokens);
  });
}

}  // namespace longgen::cuda
