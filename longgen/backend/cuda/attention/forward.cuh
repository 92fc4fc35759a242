// Attention forward on tensor cores: one thread block a tile of 64 packed rows (queries x heads of
// a group), a KV head and a piece of the keys; online softmax (Dao, arXiv 2307.08691).
#pragma once

#include "longgen/backend/cuda/attention/mma.cuh"

namespace longgen::cuda {

inline constexpr int kForwardThreads = 128;

template <int D>
constexpr int forward_shared_bytes() {
  return 5 * kTileRows * kPitch<D> * static_cast<int>(sizeof(Bf16));
}

template <int D>
__global__ void __launch_bounds__(kForwardThreads) attention_forward_kernel(ForwardArgs a) {
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  constexpr int kTileElements = kTileRows * kPitch<D>;
  Bf16* q_tile = reinterpret_cast<Bf16*>(shared_bytes);
  Bf16* k_tiles = q_tile + kTileElements;
  Bf16* v_tiles = k_tiles + 2 * kTileElements;

  // The last tiles see the most keys: they start first.
  const int tile_index = a.tile_count - 1 - static_cast<int>(blockIdx.x);
  const Tile tile = a.tiles[tile_index];
  const int kv_head = blockIdx.y, split = blockIdx.z;
  const SequenceArgs s = a.sequences[tile.sequence];
  const DevicePattern pattern(a.pattern, kv_head);
  const int packed_rows = static_cast<int>(s.row_count) * a.group;
  const int last_packed = min(tile.first + kTileRows, packed_rows) - 1;
  const int start = static_cast<int>(s.first_position);
  const KeyTiles keys(pattern, start + tile.first / a.group, start + last_packed / a.group);
  int number = 0, numbers = INT32_MAX;
  if (a.splits > 1) {
    const int each = (keys.count() + a.splits - 1) / a.splits;
    number = split * each;
    numbers = each;
  }

  copy_packed_rows<D, kForwardThreads>(q_tile, a.q, a.q_row, a.q_head, s, a.group, kv_head,
                                       tile.first);
  int current = number == 0 ? keys.next(0) : keys.at(number);
  const auto copy_tile = [&](int key_tile, int buffer) {
    copy_keys<D, kForwardThreads>(k_tiles + buffer * kTileElements, s.keys, s, pattern.shift,
                                  kv_head, key_tile * kTileRows);
    copy_keys<D, kForwardThreads>(v_tiles + buffer * kTileElements, s.values, s, pattern.shift,
                                  kv_head, key_tile * kTileRows);
  };
  if (current < keys.end) copy_tile(current, 0);
  commit_copies();

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int row0 = warp * 16 + lane / 4;  // and row0 + 8
  const int query[2] = {start + (tile.first + row0) / a.group,
                        start + (tile.first + row0 + 8) / a.group};
  float out[D / 8][4] = {};
  float top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
  const float scale_log2 = a.scale * 1.4426950408889634f;

  for (int buffer = 0; current < keys.end && numbers > 0; buffer ^= 1, --numbers) {
    const int following = keys.next(current + 1);
    if (following < keys.end && numbers > 1) copy_tile(following, buffer ^ 1);
    commit_copies();
    wait_copies<1>();
    __syncthreads();

    float p[8][4] = {};
    multiply_transposed<D, 8>(p, q_tile + warp * 16 * kPitch<D>, k_tiles + buffer * kTileElements);
    if (!keys.is_whole(current)) {
#pragma unroll
      for (int n = 0; n < 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int key = current * kTileRows + n * 8 + lane % 4 * 2 + i % 2;
          if (!pattern.sees(query[i / 2], key)) p[n][i] = -INFINITY;
        }
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float high = top[half];
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        high = fmaxf(high, fmaxf(p[n][half * 2], p[n][half * 2 + 1]));
      }
      high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 1));
      high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 2));
      // A row that has seen nothing yet keeps -inf; its exponentials are of -inf - 0.
      const float base = high == -INFINITY ? 0 : high * scale_log2;
      const float shrink = exp2f(top[half] * scale_log2 - base);
      top[half] = high;
      float part = 0;
#pragma unroll
      for (int n = 0; n < 8; ++n) {
#pragma unroll
        for (int i = half * 2; i < half * 2 + 2; ++i) {
          p[n][i] = exp2f(p[n][i] * scale_log2 - base);
          part += p[n][i];
        }
      }
      sum[half] = sum[half] * shrink + part;
#pragma unroll
      for (int d = 0; d < D / 8; ++d) {
        out[d][half * 2] *= shrink;
        out[d][half * 2 + 1] *= shrink;
      }
    }
    multiply_accumulators<D, 8>(out, p, v_tiles + buffer * kTileElements);
    __syncthreads();
    current = following;
  }
  wait_copies<0>();

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 1);
    sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 2);
    const int r = row0 + half * 8, packed = tile.first + r;
    if (packed > last_packed) continue;
    if (a.splits > 1) {
      const int64_t at =
          ((static_cast<int64_t>(split) * a.tile_count + tile_index) * a.kv_heads + kv_head) *
              kTileRows +
          r;
      float* to = a.partials + at * (D + 2);
#pragma unroll
      for (int d = 0; d < D / 8; ++d) {
        to[d * 8 + lane % 4 * 2] = out[d][half * 2];
        to[d * 8 + lane % 4 * 2 + 1] = out[d][half * 2 + 1];
      }
      if (lane % 4 == 0) {
        to[D] = top[half];
        to[D + 1] = sum[half];
      }
      continue;
    }
    const int64_t row = s.row_begin + packed / a.group;
    const int head = kv_head * a.group + packed % a.group;
    auto* to = static_cast<Bf16*>(a.out) + row * a.out_row + head * a.out_head;
    const float inverse = 1 / sum[half];
#pragma unroll
    for (int d = 0; d < D / 8; ++d) {
      *reinterpret_cast<uint32_t*>(to + d * 8 + lane % 4 * 2) =
          pack(out[d][half * 2] * inverse, out[d][half * 2 + 1] * inverse);
    }
    if (a.lse != nullptr && lane % 4 == 0) {
      a.lse[head * a.lse_head + row] = top[half] * a.scale + logf(sum[half]);
    }
  }
}

// One warp a packed row: the pieces in order.
template <int D>
__global__ void merge_splits_kernel(ForwardArgs a) {
  const int lane = threadIdx.x % 32, r = blockIdx.x * 4 + threadIdx.x / 32;
  const int tile_index = r / kTileRows, kv_head = blockIdx.y;
  const Tile tile = a.tiles[tile_index];
  const SequenceArgs& s = a.sequences[tile.sequence];
  const int packed = tile.first + r % kTileRows;
  if (packed >= s.row_count * a.group) return;
  const auto partial = [&](int split) {
    return a.partials +
           (((static_cast<int64_t>(split) * a.tile_count + tile_index) * a.kv_heads + kv_head) *
                kTileRows +
            r % kTileRows) *
               (D + 2);
  };
  float top = -INFINITY;
  for (int i = 0; i < a.splits; ++i) top = fmaxf(top, partial(i)[D]);
  const float scale_log2 = a.scale * 1.4426950408889634f;
  float sum = 0, out[(D + 31) / 32] = {};
  for (int i = 0; i < a.splits; ++i) {
    const float* p = partial(i);
    if (p[D] == -INFINITY) continue;
    const float weight = exp2f((p[D] - top) * scale_log2);
    sum += p[D + 1] * weight;
#pragma unroll
    for (int d = 0; d < (D + 31) / 32; ++d) {
      if (d * 32 + lane < D) out[d] += p[d * 32 + lane] * weight;
    }
  }
  const int64_t row = s.row_begin + packed / a.group;
  const int head = kv_head * a.group + packed % a.group;
  auto* to = static_cast<Bf16*>(a.out) + row * a.out_row + head * a.out_head;
#pragma unroll
  for (int d = 0; d < (D + 31) / 32; ++d) {
    if (d * 32 + lane < D) to[d * 32 + lane] = __float2bfloat16_rn(out[d] / sum);
  }
  if (a.lse != nullptr && lane == 0) {
    a.lse[head * a.lse_head + row] = top * a.scale + logf(sum);
  }
}

template <int D>
void launch_forward(const ForwardArgs& a, cudaStream_t stream) {
  constexpr int kBytes = forward_shared_bytes<D>();
  cudaFuncSetAttribute(attention_forward_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                       kBytes);
  const dim3 grid(a.tile_count, a.kv_heads, a.splits);
  attention_forward_kernel<D><<<grid, kForwardThreads, kBytes, stream>>>(a);
  if (a.splits == 1) return;
  merge_splits_kernel<D><<<dim3(a.tile_count * kTileRows / 4, a.kv_heads), 128, 0, stream>>>(a);
}

}  // namespace longgen::cuda
