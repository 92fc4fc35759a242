// Attention backward on tensor cores, in two kernels so that every sum has one owner and a fixed
// order: dQ by tiles of packed rows over their keys, dK and dV by tiles of keys over their queries
// (all heads of the group). Seven products instead of five, no workspace but the row sums.
#pragma once

#include "longgen/backend/cuda/attention/mma.cuh"

namespace longgen::cuda {

inline constexpr int kBackwardThreads = 128;
// Queries of a step of the dK, dV kernel: fewer where the accumulators fill the registers.
template <int D>
inline constexpr int kQueryRows = D > 64 ? 32 : 64;

template <int D>
constexpr int query_gradient_shared_bytes() {
  return 6 * kTileRows * kPitch<D> * static_cast<int>(sizeof(Bf16));
}
template <int D>
constexpr int key_gradient_shared_bytes() {
  return (2 * kTileRows + 4 * kQueryRows<D>)*kPitch<D> * static_cast<int>(sizeof(Bf16)) +
         4 * kQueryRows<D> * static_cast<int>(sizeof(float));
}

template <int D>
__global__ void __launch_bounds__(kBackwardThreads) query_gradient_kernel(BackwardArgs a) {
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  constexpr int kTileElements = kTileRows * kPitch<D>;
  Bf16* q_tile = reinterpret_cast<Bf16*>(shared_bytes);
  Bf16* dout_tile = q_tile + kTileElements;
  Bf16* k_tiles = dout_tile + kTileElements;
  Bf16* v_tiles = k_tiles + 2 * kTileElements;

  const Tile tile = a.query_tiles[a.query_tile_count - 1 - static_cast<int>(blockIdx.x)];
  const int kv_head = blockIdx.y;
  const SequenceArgs s = a.documents[tile.sequence];
  SequenceArgs ks = s, vs = s;  // contiguous rows: the identity table
  ks.token_stride = a.k_row, ks.head_stride = a.k_head;
  ks.page_stride = a.k_row << a.pattern.block_shift;
  vs.token_stride = a.v_row, vs.head_stride = a.v_head;
  vs.page_stride = a.v_row << a.pattern.block_shift;
  const Bf16* k = static_cast<const Bf16*>(a.k) + s.row_begin * a.k_row;
  const Bf16* v = static_cast<const Bf16*>(a.v) + s.row_begin * a.v_row;
  const DevicePattern pattern(a.pattern, kv_head);
  const int last_packed = min(tile.first + kTileRows, static_cast<int>(s.row_count) * a.group) - 1;
  const KeyTiles keys(pattern, tile.first / a.group, last_packed / a.group);

  copy_packed_rows<D, kBackwardThreads>(q_tile, a.q, a.q_row, a.q_head, s, a.group, kv_head,
                                        tile.first);
  copy_packed_rows<D, kBackwardThreads>(dout_tile, a.dout, a.dout_row, a.dout_head, s, a.group,
                                        kv_head, tile.first);
  const auto copy_tile = [&](int key_tile, int buffer) {
    copy_keys<D, kBackwardThreads>(k_tiles + buffer * kTileElements, k, ks, pattern.shift, kv_head,
                                   key_tile * kTileRows);
    copy_keys<D, kBackwardThreads>(v_tiles + buffer * kTileElements, v, vs, pattern.shift, kv_head,
                                   key_tile * kTileRows);
  };
  int current = keys.next(0);
  copy_tile(current, 0);
  commit_copies();

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int row0 = warp * 16 + lane / 4;
  int query[2];
  float lse_log2[2] = {0, 0}, delta[2] = {0, 0};
  for (int half = 0; half < 2; ++half) {
    const int packed = min(tile.first + row0 + half * 8, last_packed);
    const int head = kv_head * a.group + packed % a.group;
    query[half] = packed / a.group;
    const int64_t row = s.row_begin + query[half];
    lse_log2[half] = a.lse[head * a.lse_head + row] * 1.4426950408889634f;
    delta[half] = a.delta[head * a.delta_head + row];
  }
  const float scale_log2 = a.scale * 1.4426950408889634f;
  float dq[D / 8][4] = {};

  for (int buffer = 0; current < keys.end; buffer ^= 1) {
    const int following = keys.next(current + 1);
    if (following < keys.end) copy_tile(following, buffer ^ 1);
    commit_copies();
    wait_copies<1>();
    __syncthreads();
    const Bf16 *k_tile = k_tiles + buffer * kTileElements,
               *v_tile = v_tiles + buffer * kTileElements;

    float p[8][4] = {}, dp[8][4] = {};
    multiply_transposed<D, 8>(p, q_tile + warp * 16 * kPitch<D>, k_tile);
    multiply_transposed<D, 8>(dp, dout_tile + warp * 16 * kPitch<D>, v_tile);
    const bool whole = keys.is_whole(current);
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int key = current * kTileRows + n * 8 + lane % 4 * 2 + i % 2;
        const bool seen = whole || pattern.sees(query[i / 2], key);
        const float weight = seen ? exp2f(p[n][i] * scale_log2 - lse_log2[i / 2]) : 0;
        p[n][i] = weight * (dp[n][i] - delta[i / 2]);
      }
    }
    multiply_accumulators<D, 8>(dq, p, k_tile);
    __syncthreads();
    current = following;
  }
  wait_copies<0>();

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int packed = tile.first + row0 + half * 8;
    if (packed > last_packed) continue;
    auto* to = static_cast<Bf16*>(a.dq) + (s.row_begin + packed / a.group) * a.dq_row +
               (kv_head * a.group + packed % a.group) * a.dq_head;
#pragma unroll
    for (int d = 0; d < D / 8; ++d) {
      *reinterpret_cast<uint32_t*>(to + d * 8 + lane % 4 * 2) =
          pack(dq[d][half * 2] * a.scale, dq[d][half * 2 + 1] * a.scale);
    }
  }
}

template <int D>
__global__ void __launch_bounds__(kBackwardThreads) key_gradient_kernel(BackwardArgs a) {
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  constexpr int kQueries = kQueryRows<D>;
  constexpr int kKeyElements = kTileRows * kPitch<D>, kQueryElements = kQueries * kPitch<D>;
  constexpr int kChunks = D / 8;
  Bf16* k_tile = reinterpret_cast<Bf16*>(shared_bytes);
  Bf16* v_tile = k_tile + kKeyElements;
  Bf16* q_tiles = v_tile + kKeyElements;
  Bf16* dout_tiles = q_tiles + 2 * kQueryElements;
  float* lse_tiles = reinterpret_cast<float*>(dout_tiles + 2 * kQueryElements);
  float* delta_tiles = lse_tiles + 2 * kQueries;

  const Tile tile = a.key_tiles[blockIdx.x];
  const int kv_head = blockIdx.y;
  const SequenceArgs s = a.documents[tile.sequence];
  const DevicePattern pattern(a.pattern, kv_head);
  const int length = static_cast<int>(s.row_count);
  const int last_key = min(tile.first + kTileRows, length) - 1;
  const int first_query = tile.first / kQueries * kQueries;
  const int end_query = queries_end(pattern, tile.first, last_key, length);
  const int steps = (end_query - first_query + kQueries - 1) / kQueries;  // a head

  for (int i = threadIdx.x; i < kTileRows * kChunks; i += kBackwardThreads) {
    const int r = i / kChunks, c = i % kChunks * 8;
    const bool valid = tile.first + r < length;
    const int64_t row = s.row_begin + (valid ? tile.first + r : 0);
    copy_async(k_tile + r * kPitch<D> + c,
               static_cast<const Bf16*>(a.k) + row * a.k_row + kv_head * a.k_head + c, valid);
    copy_async(v_tile + r * kPitch<D> + c,
               static_cast<const Bf16*>(a.v) + row * a.v_row + kv_head * a.v_head + c, valid);
  }
  const auto copy_queries = [&](int step, int buffer) {
    const int head = kv_head * a.group + step / steps;
    const int first = first_query + step % steps * kQueries;
    for (int i = threadIdx.x; i < kQueries * kChunks; i += kBackwardThreads) {
      const int r = i / kChunks, c = i % kChunks * 8;
      const bool valid = first + r < end_query;
      const int64_t row = s.row_begin + (valid ? first + r : 0);
      copy_async(q_tiles + buffer * kQueryElements + r * kPitch<D> + c,
                 static_cast<const Bf16*>(a.q) + row * a.q_row + head * a.q_head + c, valid);
      copy_async(dout_tiles + buffer * kQueryElements + r * kPitch<D> + c,
                 static_cast<const Bf16*>(a.dout) + row * a.dout_row + head * a.dout_head + c,
                 valid);
    }
    if (threadIdx.x < kQueries) {
      const bool valid = first + static_cast<int>(threadIdx.x) < end_query;
      const int64_t row = s.row_begin + first + threadIdx.x;
      lse_tiles[buffer * kQueries + threadIdx.x] =
          valid ? a.lse[head * a.lse_head + row] * 1.4426950408889634f : 0;
      delta_tiles[buffer * kQueries + threadIdx.x] = valid ? a.delta[head * a.delta_head + row] : 0;
    }
  };
  const int total = steps * a.group;
  copy_queries(0, 0);
  commit_copies();

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int key0 = tile.first + warp * 16 + lane / 4;  // and key0 + 8
  const float scale_log2 = a.scale * 1.4426950408889634f;
  float dk[D / 8][4] = {}, dv[D / 8][4] = {};

  for (int step = 0; step < total; ++step) {
    const int buffer = step % 2;
    if (step + 1 < total) copy_queries(step + 1, buffer ^ 1);
    commit_copies();
    wait_copies<1>();
    __syncthreads();
    const Bf16* q_tile = q_tiles + buffer * kQueryElements;
    const Bf16* dout_tile = dout_tiles + buffer * kQueryElements;
    const float *lse = lse_tiles + buffer * kQueries, *delta = delta_tiles + buffer * kQueries;
    const int first = first_query + step % steps * kQueries;

    float p[kQueries / 8][4] = {};
    multiply_transposed<D, kQueries / 8>(p, k_tile + warp * 16 * kPitch<D>, q_tile);
#pragma unroll
    for (int n = 0; n < kQueries / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int column = n * 8 + lane % 4 * 2 + i % 2, query = first + column;
        const bool seen = query < end_query && pattern.sees(query, key0 + i / 2 * 8);
        p[n][i] = seen ? exp2f(p[n][i] * scale_log2 - lse[column]) : 0;
      }
    }
    multiply_accumulators<D, kQueries / 8>(dv, p, dout_tile);
    float dp[kQueries / 8][4] = {};
    multiply_transposed<D, kQueries / 8>(dp, v_tile + warp * 16 * kPitch<D>, dout_tile);
#pragma unroll
    for (int n = 0; n < kQueries / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) p[n][i] *= dp[n][i] - delta[n * 8 + lane % 4 * 2 + i % 2];
    }
    multiply_accumulators<D, kQueries / 8>(dk, p, q_tile);
    __syncthreads();
  }
  wait_copies<0>();

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int key = key0 + half * 8;
    if (key > last_key) continue;
    const int64_t row = s.row_begin + key;
    auto* to_k = static_cast<Bf16*>(a.dk) + row * a.dk_row + kv_head * a.dk_head;
    auto* to_v = static_cast<Bf16*>(a.dv) + row * a.dv_row + kv_head * a.dv_head;
#pragma unroll
    for (int d = 0; d < D / 8; ++d) {
      const int c = d * 8 + lane % 4 * 2;
      *reinterpret_cast<uint32_t*>(to_k + c) =
          pack(dk[d][half * 2] * a.scale, dk[d][half * 2 + 1] * a.scale);
      *reinterpret_cast<uint32_t*>(to_v + c) = pack(dv[d][half * 2], dv[d][half * 2 + 1]);
    }
  }
}

template <int D>
void launch_backward(const BackwardArgs& a, cudaStream_t stream) {
  constexpr int kQueryBytes = query_gradient_shared_bytes<D>();
  constexpr int kKeyBytes = key_gradient_shared_bytes<D>();
  cudaFuncSetAttribute(query_gradient_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                       kQueryBytes);
  cudaFuncSetAttribute(key_gradient_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                       kKeyBytes);
  query_gradient_kernel<D>
      <<<dim3(a.query_tile_count, a.kv_heads), kBackwardThreads, kQueryBytes, stream>>>(a);
  key_gradient_kernel<D>
      <<<dim3(a.key_tile_count, a.kv_heads), kBackwardThreads, kKeyBytes, stream>>>(a);
}

}  // namespace longgen::cuda
