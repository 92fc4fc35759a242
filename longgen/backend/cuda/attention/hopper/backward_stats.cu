// Before the backward kernel: what it needs to know of every query.
#include <cuda_bf16.h>

#include "longgen/backend/cuda/attention/hopper/backward_args.h"

namespace longgen::cuda::hopper {
namespace {

constexpr int kRows = 64, kStatsThreads = 256;
constexpr float kLog2E = 1.4426950408889634f;

__device__ float dot8(uint4 a, uint4 b) {
  const auto* x = reinterpret_cast<const __nv_bfloat162*>(&a);
  const auto* y = reinterpret_cast<const __nv_bfloat162*>(&b);
  float sum = 0;
  for (int i = 0; i < 4; ++i) {
    const float2 u = __bfloat1622float2(x[i]), v = __bfloat1622float2(y[i]);
    sum += u.x * v.x + u.y * v.y;
  }
  return sum;
}

// Where a row of a block has its numbers: the four that a thread of the backward kernel needs for
// 16 rows, which are columns of its products (wgmma.cuh), lie together.
__device__ int place_of(int row) {
  return row / 16 * 16 + row % 8 / 2 * 4 + row / 8 % 2 * 2 + row % 2;
}

// One block of rows and one head: log2-sum-exp and the row sums of dout * out. Rows of no document,
// and the block after the last, get an infinite sum: their probabilities are 0.
template <int D>
__global__ void __launch_bounds__(kStatsThreads) stats_kernel(BackwardStatsArgs a) {
  constexpr int kLanes = D / 8;  // of a row
  const int block = blockIdx.x, head = blockIdx.y;
  const int rows = block < a.blocks ? a.block_rows[block] : 0;
  float* stats = a.stats + (static_cast<int64_t>(head) * (a.blocks + 1) + block) * 2 * kRows;
  for (int r = threadIdx.x / kLanes; r < kRows; r += kStatsThreads / kLanes) {
    const int64_t row = static_cast<int64_t>(block) * kRows + r;
    const int c = threadIdx.x % kLanes * 8;
    float sum = 0;
    if (r < rows) {
      sum = dot8(*reinterpret_cast<const uint4*>(static_cast<const __nv_bfloat16*>(a.out) +
                                                 row * a.out_row + head * a.out_head + c),
                 *reinterpret_cast<const uint4*>(static_cast<const __nv_bfloat16*>(a.dout) +
                                                 row * a.dout_row + head * a.dout_head + c));
    }
    for (int i = kLanes / 2; i > 0; i /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, i);
    if (c == 0) {
      stats[place_of(r)] = r < rows ? a.lse[head * a.lse_head + row] * kLog2E : INFINITY;
      stats[kRows + place_of(r)] = sum;
    }
  }
}

}  // namespace

void backward_stats(const BackwardStatsArgs& a, cudaStream_t stream) {
  const dim3 grid(a.blocks + 1, a.q_heads);
  if (a.head_dim == 64) {
    stats_kernel<64><<<grid, kStatsThreads, 0, stream>>>(a);
  } else {
    stats_kernel<128><<<grid, kStatsThreads, 0, stream>>>(a);
  }
}

}  // namespace longgen::cuda::hopper
