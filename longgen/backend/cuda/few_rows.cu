// Products of few rows: C = A B^T with at most eight rows of A, bound by reading B's rows, the
// weights, once.
//
// A block stays on its processor and forms 16 columns of C, a tile, at a time. Weights travel
// through shared memory, with the next stages on their way, on into the next tiles, so that memory
// never idles. Registers would not do: loads on their way to them need room in the first-level
// cache, and that is small as long as attention's kernels, which want nearly all of it as shared
// memory, leave no processor idle.
//
// Which kernel runs depends on B alone. Long rows: a warp copies pieces of 2 KB, of A's rows too,
// for the eight that multiply. Short rows: A stays in registers; each warp copies its own share of
// a tile's rows, which starts soonest, or, where a block has several tiles and rows lie one behind
// the other, a whole tile is copied as one piece.
//
// A warp's tensor-core products have 16 rows of weights on one side and the eight rows of A,
// missing ones as zeros, on the other. Sums run in f32, over a warp's chunks of k in their order
// and then over the warps in theirs: how many rows A has changes nothing.
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
constexpr int kPiece = 8;     // chunks of a warp in registers, at most
constexpr int kMostRows = 8;  // of A
constexpr int kMostShared = 227 * 1024;
static_assert(kMostRows * kTile <= kThreads);

// c [16, 8] += a [16, 16] b [16, 8].
__device__ void multiply(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                         uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
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

// --- short rows, of few tiles or with gaps: each warp copies its own weights ---

constexpr int kShortDepth = kWarps * kPiece * kChunk;
// Two stages of the longest pieces, or more of shorter ones.
constexpr int kMostStages = 8, kRingElements = 2 * kTile * (kPiece + 1) * kChunk;

struct Shared {
  uint16_t rings[kWarps][kRingElements];
  float sums[2][kWarps][kMostRows][kTile];  // of two tiles by turns
  Barrier arrived[kWarps][kMostStages];
};

// What a warp takes of k: from `first` on, `chunks` chunks every `step`.
struct Share {
  int whole, chunks, step, first;
  int pitch, stages;  // elements from row to row of a stage; how many stages fit

  __device__ Share(int64_t k, int warp) : whole(static_cast<int>(k)) {
    const int all = (whole + kChunk - 1) / kChunk;
    chunks = min(kPiece, (all + kWarps - 1) / kWarps);
    step = kWarps * chunks * kChunk;
    first = warp * chunks * kChunk;
    // Rows that are read together lie in different banks.
    pitch = (chunks % 2 == 0 ? chunks + 1 : chunks) * kChunk;
    stages = min(kMostStages, kRingElements / (kTile * pitch));
  }
};

// The pieces of a warp in their order: of each of the block's tiles those of its share.
struct Piece {
  int tile, k;

  __device__ explicit Piece(const Share& share) : tile(blockIdx.x), k(share.first) {}
  __device__ void advance(const Share& share) {
    k += share.step;
    if (k < share.whole) return;
    k = share.first;
    tile += gridDim.x;
  }
};

// A place in a ring of share.stages stages, with the parity of its round.
struct Place {
  int stage = 0, parity = 0;

  __device__ void advance(const Share& share) {
    if (++stage < share.stages) return;
    stage = 0;
    parity ^= 1;
  }
};

// A warp's stages [stage, kTile, pitch]. Its functions are called by the whole warp.
struct Ring {
  const ProductArgs& p;
  const Share& share;
  uint16_t* elements;
  Barrier* arrived;
  int tiles, lane;

  __device__ uint16_t* row(int stage, int r) const {
    return elements + (stage * kTile + r) * share.pitch;
  }
  __device__ int bytes(const Piece& piece) const {
    return 2 * min(share.chunks * kChunk, share.whole - piece.k);
  }
  __device__ bool is_one(const Piece& piece) const {
    return piece.tile < tiles && piece.k < share.whole;
  }
  __device__ void copy_weights(int stage, const Piece& piece) const {
    if (!is_one(piece)) return;
    const int size = bytes(piece);
    if (lane == 0) arrived[stage].arrive_expecting(kTile * size);
    __syncwarp();
    if (lane >= kTile) return;
    // Beyond the last column the last one is formed again and not stored.
    const int64_t n = min(int64_t{piece.tile} * kTile + lane, p.n - 1);
    hopper::load_bytes(row(stage, lane),
                       static_cast<const uint16_t*>(p.b) + n * p.b_stride + piece.k, size,
                       &arrived[stage]);
  }
};

// A lane's part of the only piece: eight of k in each chunk, of row lane / 4.
__device__ void load_piece_of_a(uint4 (&x)[kPiece], const ProductArgs& p, const Share& share,
                                int lane) {
  const int r = lane / 4;
  const auto* from = static_cast<const uint16_t*>(p.a) + r * p.a_stride;
#pragma unroll
  for (int u = 0; u < kPiece; ++u) {
    const int at = share.first + u * kChunk + lane % 4 * kEach;
    x[u] = r < p.m && u < share.chunks && at < share.whole
               ? *reinterpret_cast<const uint4*>(from + at)
               : make_uint4(0, 0, 0, 0);
  }
}

// Any order of k serves as long as both factors have the same: a lane's 16 bytes, eight of k in one
// of its rows, are two registers of each of two products.
__device__ void add_products(float (&sums)[4], const Ring& ring, int stage, int k,
                             const uint4 (&own)[kPiece]) {
  const int g = ring.lane / 4, mine = ring.lane % 4 * kEach;
  const uint16_t *low_row = ring.row(stage, g), *high_row = ring.row(stage, g + 8);
#pragma unroll
  for (int u = 0; u < kPiece; ++u) {
    if (u >= ring.share.chunks) break;
    const int at = u * kChunk + mine;
    uint4 low = make_uint4(0, 0, 0, 0), high = low, x = own[u];
    if (k + at < ring.share.whole) {  // beyond it lies what was there before
      low = *reinterpret_cast<const uint4*>(low_row + at);
      high = *reinterpret_cast<const uint4*>(high_row + at);
    }
    multiply(sums, low.x, high.x, low.y, high.y, x.x, x.y);
    multiply(sums, low.z, high.z, low.w, high.w, x.z, x.w);
  }
}

template <typename C>
__global__ void __launch_bounds__(kThreads, 1) few_rows_kernel(ProductArgs p) {
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<Shared*>(shared_bytes);
  let_next_start();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const Share share(p.k, warp);
  const int tiles = static_cast<int>((p.n + kTile - 1) / kTile);
  const Ring ring{p, share, shared.rings[warp], shared.arrived[warp], tiles, lane};
  if (lane == 0) {
    for (int i = 0; i < share.stages; ++i) ring.arrived[i].init(1);
    hopper::fence_barrier_init();
  }
  __syncwarp();
  Piece next(share);
  for (int i = 0; i < share.stages; ++i, next.advance(share)) ring.copy_weights(i, next);
  wait_for_inputs();  // the kernel before, which wrote A, may still have been running
  uint4 own[kPiece];
  load_piece_of_a(own, p, share, lane);
  Place at;
  int turn = 0;
  for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x, turn ^= 1) {
    const ResultOfThread<C> result(p, tile);
    float sums[4] = {};
    for (int k = share.first; k < share.whole; k += share.step) {
      ring.arrived[at.stage].wait(at.parity);
      add_products(sums, ring, at.stage, k, own);
      __syncwarp();  // all have read the stage
      ring.copy_weights(at.stage, next);
      next.advance(share);
      at.advance(share);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      shared.sums[turn][warp][lane % 4 * 2 + i % 2][i / 2 * 8 + lane / 4] = sums[i];
    }
    __syncthreads();
    result.store(shared.sums[turn]);
  }
}

// --- long rows: pieces of kLongDepth of a tile's rows, and of A's, are stages ---

constexpr int kLongDepth = 1024, kPitch = kLongDepth + kChunk, kStages = 4;

struct alignas(128) LongShared {
  uint16_t stages[kStages][kTile + kMostRows][kPitch];
  float sums[2][kWarps][kMostRows][kTile];
  Barrier full[kStages], empty[kStages];
};
static_assert(sizeof(LongShared) <= kMostShared);

// The producer's: all pieces of the block's tiles, in their order.
struct Pieces {
  const ProductArgs& p;
  LongShared& shared;
  int tiles, tile, k = 0, lane;

  __device__ Pieces(const ProductArgs& args, LongShared& s, int tile_count, int my_lane)
      : p(args), shared(s), tiles(tile_count), tile(blockIdx.x), lane(my_lane) {}
  __device__ bool any() const { return tile < tiles; }
  __device__ int bytes() const { return 2 * min(kLongDepth, static_cast<int>(p.k) - k); }
  __device__ void copy_weights(int stage) const {
    if (lane == 0) shared.full[stage].arrive_expecting((kTile + static_cast<int>(p.m)) * bytes());
    __syncwarp();
    if (lane >= kTile) return;
    // Beyond the last column the last one is formed again and not stored.
    const int64_t n = min(int64_t{tile} * kTile + lane, p.n - 1);
    hopper::load_bytes(shared.stages[stage][lane],
                       static_cast<const uint16_t*>(p.b) + n * p.b_stride + k, bytes(),
                       &shared.full[stage]);
  }
  __device__ void copy_rows_of_a(int stage) const {
    const int r = lane - kTile;
    if (r < 0 || r >= p.m) return;
    hopper::load_bytes(shared.stages[stage][lane],
                       static_cast<const uint16_t*>(p.a) + r * p.a_stride + k, bytes(),
                       &shared.full[stage]);
  }
  __device__ void advance() {
    k += kLongDepth;
    if (k < p.k) return;
    k = 0;
    tile += gridDim.x;
  }
};

__device__ void produce(const ProductArgs& p, LongShared& shared, int tiles, int lane) {
  Pieces next(p, shared, tiles, lane);
  for (int i = 0; i < kStages && next.any(); ++i, next.advance()) next.copy_weights(i);
  wait_for_inputs();
  Pieces first(p, shared, tiles, lane);
  for (int i = 0; i < kStages && first.any(); ++i, first.advance()) first.copy_rows_of_a(i);
  hopper::RingPlace<kStages> at;
  for (; next.any(); next.advance(), at.advance()) {
    shared.empty[at.stage].wait(at.parity);
    next.copy_weights(at.stage);
    next.copy_rows_of_a(at.stage);
  }
}

__device__ void add_long_products(float (&even)[4], float (&odd)[4],
                                  const uint16_t (&stage)[kTile + kMostRows][kPitch], int length,
                                  int rows, int warp, int lane) {
  const int g = lane / 4;
#pragma unroll
  for (int u = 0; u < kLongDepth / (kChunk * kWarps); ++u) {
    const int first = (u * kWarps + warp) * kChunk, at = first + lane % 4 * kEach;
    if (first >= length) break;
    uint4 low = make_uint4(0, 0, 0, 0), high = low, x = low;
    if (at < length) {
      low = *reinterpret_cast<const uint4*>(&stage[g][at]);
      high = *reinterpret_cast<const uint4*>(&stage[g + 8][at]);
      if (g < rows) x = *reinterpret_cast<const uint4*>(&stage[kTile + g][at]);
    }
    multiply(even, low.x, high.x, low.y, high.y, x.x, x.y);
    multiply(odd, low.z, high.z, low.w, high.w, x.z, x.w);
  }
}

template <typename C>
__global__ void __launch_bounds__(kThreads + 32, 1) long_rows_kernel(ProductArgs p) {
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<LongShared*>(shared_bytes);
  let_next_start();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int tiles = static_cast<int>((p.n + kTile - 1) / kTile);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      shared.full[i].init(1);
      shared.empty[i].init(kWarps);
    }
    hopper::fence_barrier_init();
  }
  __syncthreads();
  if (warp == kWarps) return produce(p, shared, tiles, lane);
  wait_for_inputs();
  hopper::RingPlace<kStages> at;
  int turn = 0;
  for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x, turn ^= 1) {
    const ResultOfThread<C> result(p, tile);
    float even[4] = {}, odd[4] = {};
    for (int k = 0; k < p.k; k += kLongDepth, at.advance()) {
      shared.full[at.stage].wait(at.parity);
      add_long_products(even, odd, shared.stages[at.stage],
                        min(kLongDepth, static_cast<int>(p.k) - k), static_cast<int>(p.m), warp,
                        lane);
      __syncwarp();  // all have read the stage
      if (lane == 0) shared.empty[at.stage].arrive();
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      shared.sums[turn][warp][lane % 4 * 2 + i % 2][i / 2 * 8 + lane / 4] = even[i] + odd[i];
    }
    hopper::named_sync(1, kThreads);
    result.store(shared.sums[turn]);
  }
}

// --- short rows of many tiles, one behind the other: whole tiles are stages ---

struct alignas(128) ShortShared {
  float sums[2][kWarps][kMostRows][kTile];
  Barrier arrived[kMostStages];
};

// Stages of whole tiles [kTile, k].
int short_stages(int64_t k) {
  const int64_t room = kMostShared - static_cast<int64_t>(sizeof(ShortShared));
  return static_cast<int>(std::min<int64_t>(kMostStages, room / (2 * kTile * k)));
}

// A warp's chunks are those from its own on, eight apart: of A's rows, for all tiles.
__device__ void load_rows_of_a(uint4 (&x)[kPiece], const ProductArgs& p, int k, int warp,
                               int lane) {
  const int r = lane / 4;
  const auto* from = static_cast<const uint16_t*>(p.a) + r * p.a_stride;
#pragma unroll
  for (int u = 0; u < kPiece; ++u) {
    const int at = (u * kWarps + warp) * kChunk + lane % 4 * kEach;
    x[u] = r < p.m && at < k ? *reinterpret_cast<const uint4*>(from + at) : make_uint4(0, 0, 0, 0);
  }
}

__device__ void add_short_products(float (&sums)[4], const uint16_t* stage,
                                   const uint4 (&x)[kPiece], int k, int warp, int lane) {
  float even[4] = {}, odd[4] = {};
  const uint16_t *low_row = stage + lane / 4 * k, *high_row = low_row + 8 * k;
#pragma unroll
  for (int u = 0; u < kPiece; ++u) {
    const int first = (u * kWarps + warp) * kChunk, at = first + lane % 4 * kEach;
    if (first >= k) break;
    uint4 low = make_uint4(0, 0, 0, 0), high = low;
    if (at < k) {
      low = *reinterpret_cast<const uint4*>(low_row + at);
      high = *reinterpret_cast<const uint4*>(high_row + at);
    }
    multiply(even, low.x, high.x, low.y, high.y, x[u].x, x[u].y);
    multiply(odd, low.z, high.z, low.w, high.w, x[u].z, x[u].w);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) sums[i] = even[i] + odd[i];
}

template <typename C>
__global__ void __launch_bounds__(kThreads, 1) short_rows_kernel(ProductArgs p, int stages) {
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<ShortShared*>(shared_bytes);
  auto* const ring = reinterpret_cast<uint16_t*>(shared_bytes + sizeof(ShortShared));
  let_next_start();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, k = static_cast<int>(p.k);
  const int tiles = static_cast<int>((p.n + kTile - 1) / kTile);
  // By the first thread. Of the last tile, rows that are missing stay what they were: their columns
  // are not stored.
  const auto copy = [&](int stage, int tile) {
    if (tile >= tiles || threadIdx.x > 0) return;
    const int64_t first = int64_t{tile} * kTile;
    const int bytes = 2 * k * static_cast<int>(min(int64_t{kTile}, p.n - first));
    shared.arrived[stage].arrive_expecting(bytes);
    hopper::load_bytes(ring + stage * kTile * k, static_cast<const uint16_t*>(p.b) + first * k,
                       bytes, &shared.arrived[stage]);
  };
  if (threadIdx.x == 0) {
    for (int i = 0; i < stages; ++i) shared.arrived[i].init(1);
    hopper::fence_barrier_init();
  }
  for (int i = 0; i < stages; ++i) copy(i, static_cast<int>(blockIdx.x + i * gridDim.x));
  wait_for_inputs();  // the kernel before, which wrote A, may still have been running
  uint4 x[kPiece];
  load_rows_of_a(x, p, k, warp, lane);
  __syncthreads();  // all see the barriers
  int turn = 0, stage = 0, parity = 0;
  for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x, turn ^= 1) {
    const ResultOfThread<C> result(p, tile);
    float sums[4];
    shared.arrived[stage].wait(parity);
    add_short_products(sums, ring + stage * kTile * k, x, k, warp, lane);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      shared.sums[turn][warp][lane % 4 * 2 + i % 2][i / 2 * 8 + lane / 4] = sums[i];
    }
    __syncthreads();  // all have read the stage
    copy(stage, tile + stages * static_cast<int>(gridDim.x));
    result.store(shared.sums[turn]);
    if (++stage == stages) {
      stage = 0;
      parity ^= 1;
    }
  }
}

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), int blocks, size_t shared_bytes, cudaStream_t stream,
            const ProductArgs& p, int threads, Arguments... arguments) {
  // Always the same: a graph keeps launches of several sizes.
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMostShared);
  cudaLaunchAttribute early = early_start();
  cudaLaunchConfig_t config{};
  config.gridDim = static_cast<unsigned>(blocks);
  config.blockDim = static_cast<unsigned>(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = 1;
  cudaLaunchKernelEx(&config, kernel, p, arguments...);
}

template <typename C>
void launch_by_shape(const ProductArgs& p, int processors, cudaStream_t stream) {
  const auto tiles = static_cast<int>((p.n + kTile - 1) / kTile);
  const int blocks = std::min(tiles, processors);
  if (p.k > kShortDepth) {
    launch(long_rows_kernel<C>, blocks, sizeof(LongShared), stream, p, kThreads + 32);
  } else if (tiles == blocks || p.b_stride != p.k) {
    launch(few_rows_kernel<C>, blocks, sizeof(Shared), stream, p, kThreads);
  } else {
    const int stages = short_stages(p.k);
    const size_t bytes = sizeof(ShortShared) + 2 * kTile * static_cast<size_t>(stages * p.k);
    launch(short_rows_kernel<C>, blocks, bytes, stream, p, kThreads, stages);
  }
}

}  // namespace

bool takes_few_rows(const ProductArgs& p) {
  static_assert(kMostFewRows <= kMostRows);
  return p.m >= 1 && p.m <= kMostFewRows && p.n >= 1 && p.k % kEach == 0 &&
         p.type == Element::kBF16 && p.b_transposed && !p.a_transposed &&
         in_pieces(p.a, kEach, 2, {p.a_stride}) && in_pieces(p.b, kEach, 2, {p.b_stride});
}

void product_few_rows(const ProductArgs& p, int processors, cudaStream_t stream) {
  p.c_type == Element::kF32 ? launch_by_shape<float>(p, processors, stream)
                            : launch_by_shape<__nv_bfloat16>(p, processors, stream);
}

}  // namespace longgen::cuda
