// Products of few rows: C = A B^T with at most eight rows of A, bound by reading B's rows, the
// weights, once.
//
// A block stays on its processor and forms 16 columns of C, a tile, at a time. Each of its warps
// has a share of k: it copies a piece of every row of the tile into shared memory, a stage, with
// the next stages on their way, on into the next tile, so that memory never idles. Registers would
// not do: loads on their way to them need room in the first-level cache, and that is small as long
// as attention's kernels, which want nearly all of it as shared memory, leave no processor idle.
//
// A warp's tensor-core products have 16 rows of weights on one side and the eight rows of A,
// missing ones as zeros, on the other. Sums run in f32, over a warp's pieces in their order and
// then over the warps in theirs, which depends on k alone: how many rows there are changes nothing.
#include <cuda_bf16.h>

#include <algorithm>

#include "longgen/backend/cuda/alignment.h"
#include "longgen/backend/cuda/attention/hopper/tma.cuh"
#include "longgen/backend/cuda/dependent_launch.cuh"
#include "longgen/backend/cuda/device_math.cuh"
#include "longgen/backend/cuda/few_rows.h"

namespace longgen::cuda {
namespace {

using hopper::Barrier;

constexpr int kWarps = 8, kThreads = 32 * kWarps;
constexpr int kEach = 8;      // elements of 16 bytes
constexpr int kTile = 16;     // columns of C, rows of B
constexpr int kChunk = 32;    // of k in two products
constexpr int kPiece = 8;     // chunks of a row that are copied at once: 512 bytes
constexpr int kMostRows = 8;  // of A
constexpr int kStages = 2;
// Elements from row to row of a stage: the rows that are read together lie in different banks.
constexpr int kPitch = kPiece * kChunk + kChunk;

struct Shared {
  uint16_t stages[kWarps][kStages][kTile][kPitch];
  float sums[2][kWarps][kMostRows][kTile];  // of two tiles by turns
  Barrier arrived[kWarps][kStages];
};
static_assert(sizeof(Shared) <= 227 * 1024 && kMostRows * kTile <= kThreads);

// What a warp takes of k: from `first` on, `chunks` chunks every `step`.
struct Share {
  int whole, chunks, step, first;

  __device__ Share(int64_t k, int warp) : whole(static_cast<int>(k)) {
    const int all = (whole + kChunk - 1) / kChunk;
    chunks = min(kPiece, (all + kWarps - 1) / kWarps);
    step = kWarps * chunks * kChunk;
    first = warp * chunks * kChunk;
  }
};

// Copies a warp's weights, piece after piece and tile after tile; called by whole warps.
struct WeightCopies {
  const ProductArgs& p;
  const Share& share;
  int tiles, tile, k;  // the next piece
  const uint16_t* row = nullptr;

  __device__ WeightCopies(const ProductArgs& args, const Share& s, int tile_count)
      : p(args), share(s), tiles(tile_count), tile(blockIdx.x), k(s.first) {
    if (share.first >= share.whole) tile = tiles;  // no share: k is short
    begin_tile();
  }
  // Beyond the last column the last one is formed again and not stored.
  __device__ void begin_tile() {
    const int64_t n = int64_t{tile} * kTile + threadIdx.x % kTile;
    row = static_cast<const uint16_t*>(p.b) + min(n, p.n - 1) * p.b_stride;
  }
  __device__ void start(uint16_t (&stage)[kTile][kPitch], Barrier& arrived) {
    if (tile >= tiles) return;
    const int lane = threadIdx.x % 32;
    const int bytes = 2 * min(share.chunks * kChunk, share.whole - k);
    if (lane == 0) arrived.arrive_expecting(kTile * bytes);
    __syncwarp();
    if (lane < kTile) hopper::load_bytes(stage[lane], row + k, bytes, &arrived);
    k += share.step;
    if (k < share.whole) return;
    k = share.first;
    tile += gridDim.x;
    begin_tile();
  }
};

// c [16, 8] += a [16, 16] b [16, 8].
__device__ void multiply(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                         uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// A lane's part of A's pieces: eight of k in each chunk, of row lane / 4.
struct RowsOfA {
  const uint16_t* from;
  bool there;

  __device__ explicit RowsOfA(const ProductArgs& p)
      : from(static_cast<const uint16_t*>(p.a) + threadIdx.x % 32 / 4 * p.a_stride),
        there(threadIdx.x % 32 / 4 < p.m) {}
  __device__ void load(uint4 (&x)[kPiece], const Share& share, int k) const {
#pragma unroll
    for (int u = 0; u < kPiece; ++u) {
      const int at = k + u * kChunk + threadIdx.x % 4 * kEach;
      x[u] = there && u < share.chunks && at < share.whole
                 ? *reinterpret_cast<const uint4*>(from + at)
                 : make_uint4(0, 0, 0, 0);
    }
  }
};

// Any order of k serves as long as both factors have the same: a lane's 16 bytes, eight of k in one
// of its rows, are two registers of each of two products.
__device__ void add_products(float (&sums)[4], const uint16_t (&stage)[kTile][kPitch],
                             const uint4 (&x)[kPiece], const Share& share, int k) {
  const int g = threadIdx.x % 32 / 4, mine = threadIdx.x % 4 * kEach;
#pragma unroll
  for (int u = 0; u < kPiece; ++u) {
    if (u >= share.chunks) break;
    uint4 low = make_uint4(0, 0, 0, 0), high = low;  // beyond k lies what was there before
    if (k + u * kChunk + mine < share.whole) {
      low = *reinterpret_cast<const uint4*>(&stage[g][u * kChunk + mine]);
      high = *reinterpret_cast<const uint4*>(&stage[g + 8][u * kChunk + mine]);
    }
    multiply(sums, low.x, high.x, low.y, high.y, x[u].x, x[u].y);
    multiply(sums, low.z, high.z, low.w, high.w, x[u].z, x[u].w);
  }
}

// One number of C, which a thread of the block's first has of each tile.
template <typename C>
struct ResultOfThread {
  C* to = nullptr;  // null: none
  int r, c;
  float base = 0;

  __device__ ResultOfThread(const ProductArgs& p, int tile)
      : r(threadIdx.x / kTile), c(threadIdx.x % kTile) {
    const int64_t n = int64_t{tile} * kTile + c;
    if (r >= p.m || n >= p.n) return;
    to = static_cast<C*>(p.c) + r * p.c_stride + n;
    if (p.accumulate) base = to_float(*to);
    if (p.bias != nullptr) base += to_float(static_cast<const __nv_bfloat16*>(p.bias)[n]);
  }
  __device__ void store(const float (&sums)[kWarps][kMostRows][kTile]) const {
    if (to == nullptr) return;
    float product = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) product += sums[w][r][c];
    *to = from_float<C>(product + base);
  }
};

template <typename C>
__global__ void __launch_bounds__(kThreads, 1) few_rows_kernel(ProductArgs p) {
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<Shared*>(shared_bytes);
  let_next_start();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  auto& stages = shared.stages[warp];
  Barrier* const arrived = shared.arrived[warp];
  if (lane == 0) {
    for (int i = 0; i < kStages; ++i) arrived[i].init(1);
    hopper::fence_barrier_init();
  }
  __syncwarp();
  const Share share(p.k, warp);
  const int tiles = static_cast<int>((p.n + kTile - 1) / kTile);
  WeightCopies copies(p, share, tiles);
  for (int i = 0; i < kStages; ++i) copies.start(stages[i], arrived[i]);
  wait_for_inputs();  // the kernel before may still have been running
  const RowsOfA a(p);
  hopper::RingPlace<kStages> at;
  int turn = 0;
  for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x, turn ^= 1) {
    const ResultOfThread<C> result(p, tile);
    float sums[4] = {};
    for (int k = share.first; k < share.whole; k += share.step) {
      uint4 x[kPiece];
      a.load(x, share, k);
      arrived[at.stage].wait(at.parity);
      add_products(sums, stages[at.stage], x, share, k);
      __syncwarp();  // all have read the stage
      copies.start(stages[at.stage], arrived[at.stage]);
      at.advance();
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      shared.sums[turn][warp][lane % 4 * 2 + i % 2][i / 2 * 8 + lane / 4] = sums[i];
    }
    __syncthreads();
    result.store(shared.sums[turn]);
  }
}

template <typename C>
void launch(const ProductArgs& p, int processors, cudaStream_t stream) {
  constexpr int kBytes = sizeof(Shared);
  cudaFuncSetAttribute(few_rows_kernel<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  cudaLaunchAttribute early = early_start();
  cudaLaunchConfig_t config{};
  config.gridDim = static_cast<unsigned>(std::min<int64_t>((p.n + kTile - 1) / kTile, processors));
  config.blockDim = kThreads;
  config.dynamicSmemBytes = kBytes;
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = 1;
  cudaLaunchKernelEx(&config, few_rows_kernel<C>, p);
}

}  // namespace

bool takes_few_rows(const ProductArgs& p) {
  static_assert(kMostFewRows <= kMostRows);
  return p.m >= 1 && p.m <= kMostFewRows && p.n >= 1 && p.k % kEach == 0 &&
         p.type == Element::kBF16 && p.b_transposed && !p.a_transposed &&
         in_pieces(p.a, kEach, 2, {p.a_stride}) && in_pieces(p.b, kEach, 2, {p.b_stride});
}

void product_few_rows(const ProductArgs& p, int processors, cudaStream_t stream) {
  p.c_type == Element::kF32 ? launch<float>(p, processors, stream)
                            : launch<__nv_bfloat16>(p, processors, stream);
}

}  // namespace longgen::cuda
