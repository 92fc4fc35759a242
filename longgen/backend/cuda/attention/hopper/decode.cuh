// Attention of up to 16 packed rows (query x head of the group) over the keys of a sequence.
//
// What counts is that memory never idles: every warp copies keys and values for itself, 16 at a
// time and several such slices ahead, and multiplies them with mma.sync, whose 16 rows are all
// there are. Warps meet only at the end, where their results are merged; so do the thread blocks
// that share a sequence's keys. Started early (see launch_decode), the kernel copies keys of
// earlier steps while the one before it still runs.
#pragma once

#include "longgen/backend/cuda/attention/hopper/barrier.cuh"
#include "longgen/backend/cuda/attention/hopper/decode_args.h"
#include "longgen/backend/cuda/attention/hopper/softmax.cuh"
#include "longgen/backend/cuda/attention/mma.cuh"
#include "longgen/backend/cuda/dependent_launch.cuh"

namespace longgen::cuda::hopper {

inline constexpr int kDecodeWarps = 8, kDecodeThreads = 32 * kDecodeWarps;
inline constexpr int kSlice = 16;  // keys
inline constexpr int kSlicesOfBlock = kTileRows / kSlice;

// The key blocks that the query blocks [first, last] see, by number, ascending.
struct VisibleBlocks {
  int sinks, strided, first_strided, stride, first_local, count;

  __device__ VisibleBlocks(const DevicePattern& p, int first, int last) : stride(p.stride) {
    first_local = first < p.local ? 0 : first - p.local + 1;
    sinks = min(p.sink, first_local);
    strided = first_strided = 0;
    if (p.stride > 0 && sinks < first_local) {
      first_strided = p.next_strided(sinks);
      if (first_strided < first_local) {
        strided = (first_local - 1 - first_strided) / p.stride + 1;
      }
    }
    count = sinks + strided + last + 1 - first_local;
  }
  __device__ int at(int number) const {
    if (number < sinks) return number;
    number -= sinks;
    return number < strided ? first_strided + number * stride : first_local + number - strided;
  }
};

// One row's part in a merge.
struct Part {
  float top, sum;
};

// What the blocks of a cluster send to the one that merges it: pairs of a row and a channel are
// merged kDecodeThreads at a turn, the turns by one block after the other.
struct ClusterParts {
  static constexpr int kMostTurns = kDecodeRows * 128 / kDecodeThreads;
  float out[kMostTurns + kMostClustered - 1][kDecodeThreads];  // [a turn of its own + sender]
  Part part[kMostClustered][kDecodeRows];                      // [sender][row]
};

template <int D>
struct DecodeConfig {
  static constexpr int kStages = D == 128 ? 3 : 6;
  static constexpr int kSliceElements = kSlice * D;  // of keys; as many values
  static constexpr int kPitchFloats = D + 4;         // of merged results in shared memory
  static constexpr int kRingBytes = kDecodeWarps * kStages * 2 * kSliceElements * 2;
  static_assert(kRingBytes >= (kDecodeWarps + 1) * kDecodeRows * kPitchFloats * 4);
  static constexpr int kBytes = kRingBytes + static_cast<int>(sizeof(ClusterParts));
};

template <int D>
struct DecodeWarp {
  using Config = DecodeConfig<D>;

  const SequenceArgs& s;
  const DevicePattern& pattern;
  Bf16* ring;  // this warp's stages
  int kv_head, rows, lane;
  uint32_t q[D / 16][4];
  float out[D / 8][4];
  float top[2], sum[2];

  __device__ static Bf16* swizzled(Bf16* tile, int row, int chunk) {
    return tile + row * D + ((chunk ^ (row & 7)) * 8);
  }

  // Starts copying a slice's keys and values; zeros beyond the length and from released blocks.
  __device__ void copy_slice(int stage, int block, int slice) {
    constexpr int kChunks = D / 8;
    const int64_t page = s.block_table != nullptr ? s.block_table[block] : block;
    const int64_t base = page * s.page_stride + kv_head * s.head_stride;
    Bf16* keys = ring + stage * 2 * Config::kSliceElements;
    Bf16* values = keys + Config::kSliceElements;
#pragma unroll
    for (int i = 0; i < kSlice * kChunks / 32; ++i) {
      const int row = (i * 32 + lane) / kChunks, chunk = (i * 32 + lane) % kChunks;
      const int token = slice * kSlice + row;
      const bool valid = page >= 0 && block * kTileRows + token < s.length;
      const int64_t at = valid ? base + token * s.token_stride + chunk * 8 : 0;
      copy_async(swizzled(keys, row, chunk), static_cast<const Bf16*>(s.keys) + at, valid);
      copy_async(swizzled(values, row, chunk), static_cast<const Bf16*>(s.values) + at, valid);
    }
  }

  __device__ void scores_of(float (&p)[2][4], Bf16* keys) {
    float odd[2][4] = {};
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
      uint32_t b[4];
      load_matrices(b, swizzled(keys, (lane & 7) + (lane >> 4) * 8, k * 2 + (lane >> 3 & 1)));
      multiply_add(k % 2 == 0 ? p[0] : odd[0], q[k], b[0], b[1]);
      multiply_add(k % 2 == 0 ? p[1] : odd[1], q[k], b[2], b[3]);
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) p[i / 4][i % 4] += odd[i / 4][i % 4];
  }

  // first_key: the slice's first position. query: positions of this thread's two rows.
  __device__ void add_slice(int stage, int first_key, bool masked, const int (&query)[2],
                            float scale_log2) {
    Bf16* keys = ring + stage * 2 * Config::kSliceElements;
    float p[2][4] = {};
    scores_of(p, keys);
    if (masked) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int key = first_key + i / 4 * 8 + lane % 4 * 2 + i % 2;
        if (!pattern.sees(query[i % 4 / 2], key)) p[i / 4][i % 4] = -INFINITY;
      }
    }
    float high[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      high[half] = fmaxf(fmaxf(p[0][half * 2], p[0][half * 2 + 1]),
                         fmaxf(p[1][half * 2], p[1][half * 2 + 1]));
    }
    const float patience = __fdividef(kPatience, scale_log2);
    if (__any_sync(0xffffffffu, high[0] > top[0] + patience || high[1] > top[1] + patience)) {
      raise_tops(high, scale_log2);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (half == 1 && rows <= 8) {  // there are none
        p[0][2] = p[0][3] = p[1][2] = p[1][3] = 0;
        break;
      }
      const float base = top[half] == -INFINITY ? 0 : top[half] * scale_log2;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float& x = p[i / 2][half * 2 + i % 2];
        x = exp2_fast(fmaf(x, scale_log2, -base));
        sum[half] += x;
      }
    }
    const uint32_t left[4] = {pack(p[0][0], p[0][1]), pack(p[0][2], p[0][3]),
                              pack(p[1][0], p[1][1]), pack(p[1][2], p[1][3])};
    Bf16* values = keys + Config::kSliceElements;
#pragma unroll
    for (int n = 0; n < D / 8; n += 2) {
      uint32_t b[4];
      load_matrices_transposed(b, swizzled(values, lane & 15, n + (lane >> 4)));
      multiply_add(out[n], left, b[0], b[1]);
      multiply_add(out[n + 1], left, b[2], b[3]);
    }
  }

  // Maxima that count a slice's, of which this thread has seen `highest`.
  __device__ void raise_tops(const float (&highest)[2], float scale_log2) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float high = fmaxf(highest[half], __shfl_xor_sync(0xffffffffu, highest[half], 1));
      high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 2));
      high = fmaxf(high, top[half]);
      const float base = high == -INFINITY ? 0 : high * scale_log2;
      const float shrink = exp2_fast(fmaf(top[half], scale_log2, -base));
      top[half] = high;
      sum[half] *= shrink;
#pragma unroll
      for (int d = 0; d < D / 8; ++d) {
        out[d][half * 2] *= shrink;
        out[d][half * 2 + 1] *= shrink;
      }
    }
  }

  // The rows of this warp to shared memory [16, D + 4]: sums over values, maximum, sum.
  __device__ void leave(float* to) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (half == 1 && rows <= 8) return;
      float* row = to + (lane / 4 + half * 8) * Config::kPitchFloats;
      float total = sum[half];
      total += __shfl_xor_sync(0xffffffffu, total, 1);
      total += __shfl_xor_sync(0xffffffffu, total, 2);
#pragma unroll
      for (int d = 0; d < D / 8; ++d) {
        *reinterpret_cast<float2*>(row + d * 8 + lane % 4 * 2) = {out[d][half * 2],
                                                                  out[d][half * 2 + 1]};
      }
      if (lane % 4 == 0) {
        row[D] = top[half];
        row[D + 1] = total;
      }
    }
  }
};

// Merges `count` results of a row for one channel: the sum over values, with the common maximum and
// the sum of exponentials in `part`. read(i, at) is number `at` of result i: channels, maximum,
// sum.
template <int D, typename Read>
__device__ float merge_parts(int count, int channel, float scale_log2, Part* part,
                             const Read& read) {
  float top = -INFINITY, sum = 0, out = 0;
#pragma unroll 8
  for (int i = 0; i < count; ++i) top = fmaxf(top, read(i, D));
  const float base = top == -INFINITY ? 0 : top * scale_log2;
#pragma unroll 8
  for (int i = 0; i < count; ++i) {
    const float weight = exp2f(read(i, D) * scale_log2 - base);
    sum += read(i, D + 1) * weight;
    out += read(i, channel) * weight;
  }
  *part = {top, sum};
  return out;
}

template <int D>
__device__ void write_output(const ForwardArgs& a, const SequenceArgs& s, int kv_head, int packed,
                             int channel, float out, const Part& part) {
  const int64_t row = s.row_begin + packed / a.group;
  const int head = kv_head * a.group + packed % a.group;
  auto* to = static_cast<Bf16*>(a.out) + row * a.out_row + head * a.out_head;
  to[channel] = __float2bfloat16_rn(out / part.sum);
  if (a.lse != nullptr && channel == 0) {
    a.lse[head * a.lse_head + row] = part.top * a.scale + logf(part.sum);
  }
}

// The 16 packed rows as left operands; zeros beyond `rows`.
template <int D>
__device__ void load_rows(uint32_t (&q)[D / 16][4], const ForwardArgs& a, const SequenceArgs& s,
                          int kv_head, int rows, int lane) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int packed = lane / 4 + half * 8;
    const bool valid = packed < rows;
    const int64_t row = s.row_begin + (valid ? packed / a.group : 0);
    const int head = kv_head * a.group + (valid ? packed % a.group : 0);
    const auto* from = reinterpret_cast<const uint32_t*>(static_cast<const Bf16*>(a.q) +
                                                         row * a.q_row + head * a.q_head);
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
      q[k][half] = valid ? from[k * 8 + lane % 4] : 0;
      q[k][half + 2] = valid ? from[k * 8 + 4 + lane % 4] : 0;
    }
  }
}

// Number `at` of a block's results, to the block of its cluster that merges it.
template <int D>
__device__ void send_part(ClusterParts& parts, int pieces, int at, float out, const Part& part) {
  const int turn = at / kDecodeThreads, sender = blockIdx.x;
  store_to_block(&parts.out[turn / pieces * pieces + sender][at % kDecodeThreads], turn % pieces,
                 out);
  const int channel = at % D;
  if (channel < pieces) {  // each block needs the row's
    Part& to = parts.part[sender][at / D];
    store_to_block(&to.top, channel, part.top);
    store_to_block(&to.sum, channel, part.sum);
  }
}

// Merges what the cluster's blocks have sent to this one.
template <int D>
__device__ void merge_cluster(const DecodeArgs& args, const SequenceArgs& s,
                              const ClusterParts& parts, int rows, int kv_head, float scale_log2) {
  arrive_at_cluster();
  if (static_cast<int>(blockIdx.x) * kDecodeThreads >= rows * D) return;
  wait_for_cluster();
  for (int turn = 0;; turn += args.pieces) {
    const int i = (turn + blockIdx.x) * kDecodeThreads + threadIdx.x;
    if (i >= rows * D) return;
    const int packed = i / D, channel = i % D;
    Part part;
    const float out =
        merge_parts<D>(args.pieces, channel, scale_log2, &part, [&](int from, int at) {
          if (at < D) return parts.out[turn + from][threadIdx.x];
          return at == D ? parts.part[from][packed].top : parts.part[from][packed].sum;
        });
    write_output<D>(args.call, s, kv_head, packed, channel, out, part);
  }
}

// The last block to get here reads the others' rows from global memory.
template <int D>
__device__ void merge_last(const DecodeArgs& args, const SequenceArgs& s, const float* mine,
                           int rows, int kv_head, float scale_log2) {
  constexpr int kPitchFloats = DecodeConfig<D>::kPitchFloats;
  const int64_t item = int64_t{blockIdx.z} * args.call.kv_heads + kv_head;
  const int64_t step = int64_t{kDecodeRows} * (D + 2);
  float* partials = args.call.partials + item * args.pieces * step;
  __syncthreads();
  for (int i = threadIdx.x; i < rows * (D + 2); i += kDecodeThreads) {
    const int packed = i / (D + 2), at = i % (D + 2);
    __stcg(partials + blockIdx.x * step + i, mine[packed * kPitchFloats + at]);
  }
  __shared__ bool is_last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {  // wraps to 0 with the last one
    is_last = atomicInc(args.arrived + item, args.pieces - 1) == args.pieces - 1;
  }
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  for (int i = threadIdx.x; i < rows * D; i += kDecodeThreads) {
    const int packed = i / D, channel = i % D;
    Part part;
    const float out = merge_parts<D>(
        args.pieces, channel, scale_log2, &part,
        [&](int piece, int at) { return __ldcg(partials + piece * step + packed * (D + 2) + at); });
    write_output<D>(args.call, s, kv_head, packed, channel, out, part);
  }
}

template <int D>
__global__ void __launch_bounds__(kDecodeThreads, 1) attention_decode(DecodeArgs args) {
  using Config = DecodeConfig<D>;
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  let_next_start();
  const ForwardArgs& a = args.call;
  const bool clustered = args.pieces > 1 && args.arrived == nullptr;
  if (clustered) arrive_at_cluster();
  const int piece = blockIdx.x, kv_head = blockIdx.y, index = blockIdx.z;
  const SequenceArgs s = a.sequences[index];
  const DevicePattern pattern(a.pattern, kv_head);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int rows = static_cast<int>(s.row_count) * a.group;
  if (rows == 0) return wait_for_inputs();
  const int start = static_cast<int>(s.first_position);
  const int first_block = start / kTileRows;
  const int last_block = (start + static_cast<int>(s.row_count) - 1) / kTileRows;
  const VisibleBlocks blocks(pattern, first_block, last_block);
  const int begin = static_cast<int>(int64_t{piece} * blocks.count / args.pieces) * kSlicesOfBlock;
  const int end =
      static_cast<int>(int64_t{piece + 1} * blocks.count / args.pieces) * kSlicesOfBlock;

  DecodeWarp<D> work{
      s,
      pattern,
      reinterpret_cast<Bf16*>(shared_bytes) + warp * Config::kStages * 2 * Config::kSliceElements,
      kv_head,
      rows,
      lane};
  bool waits = true;  // for the kernels before, one of which writes this step's keys
  const auto copy = [&](int slice, int stage) {
    if (slice < end) {
      const int block = blocks.at(slice / kSlicesOfBlock);
      if (waits && block >= first_block) {
        wait_for_inputs();
        waits = false;
      }
      work.copy_slice(stage, block, slice % kSlicesOfBlock);
    }
    commit_copies();
  };
#pragma unroll
  for (int i = 0; i < Config::kStages; ++i) copy(begin + warp + i * kDecodeWarps, i);
  wait_for_inputs();
  waits = false;
  load_rows<D>(work.q, a, s, kv_head, rows, lane);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    work.top[half] = -INFINITY;
    work.sum[half] = 0;
#pragma unroll
    for (int d = 0; d < D / 8; ++d) work.out[d][half * 2] = work.out[d][half * 2 + 1] = 0;
  }
  const int query[2] = {start + min(lane / 4, rows - 1) / a.group,
                        start + min(lane / 4 + 8, rows - 1) / a.group};
  const float scale_log2 = a.scale * 1.4426950408889634f;
  int stage = 0;
  for (int slice = begin + warp; slice < end; slice += kDecodeWarps) {
    wait_copies<Config::kStages - 1>();
    __syncwarp();
    const int block = blocks.at(slice / kSlicesOfBlock);
    const bool masked = block >= first_block || first_block != last_block;
    work.add_slice(stage, block * kTileRows + slice % kSlicesOfBlock * kSlice, masked, query,
                   scale_log2);
    __syncwarp();
    copy(slice + Config::kStages * kDecodeWarps, stage);
    stage = stage + 1 == Config::kStages ? 0 : stage + 1;
  }
  wait_copies<0>();
  __syncthreads();
  auto* merged = reinterpret_cast<float*>(shared_bytes);
  constexpr int kTile = kDecodeRows * Config::kPitchFloats;
  work.leave(merged + warp * kTile);
  __syncthreads();

  // This block's rows [16, D + 4], or the result itself.
  float* mine = merged + kDecodeWarps * kTile;
  auto& parts = *reinterpret_cast<ClusterParts*>(shared_bytes + Config::kRingBytes);
  if (clustered) wait_for_cluster();  // its blocks have all begun
  for (int i = threadIdx.x; i < rows * D; i += kDecodeThreads) {
    const int packed = i / D, channel = i % D;
    Part part;
    const float out = merge_parts<D>(kDecodeWarps, channel, scale_log2, &part, [&](int w, int at) {
      return merged[w * kTile + packed * Config::kPitchFloats + at];
    });
    if (args.pieces == 1) {
      write_output<D>(a, s, kv_head, packed, channel, out, part);
      continue;
    }
    if (clustered) {
      send_part<D>(parts, args.pieces, i, out, part);
      continue;
    }
    float* to = mine + packed * Config::kPitchFloats;
    to[channel] = out;
    if (channel == 0) {
      to[D] = part.top;
      to[D + 1] = part.sum;
    }
  }
  if (args.pieces == 1) return;
  if (clustered) {
    merge_cluster<D>(args, s, parts, rows, kv_head, scale_log2);
  } else {
    merge_last<D>(args, s, mine, rows, kv_head, scale_log2);
  }
}

template <int D>
void launch_decode_kernel(const DecodeArgs& args, bool early, cudaStream_t stream) {
  constexpr int kBytes = DecodeConfig<D>::kBytes;
  static_assert(kBytes <= 227 * 1024);
  cudaFuncSetAttribute(attention_decode<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  cudaLaunchConfig_t launch{};
  launch.gridDim = dim3(args.pieces, args.call.kv_heads, args.sequences);
  launch.blockDim = dim3(kDecodeThreads);
  launch.dynamicSmemBytes = kBytes;
  launch.stream = stream;
  cudaLaunchAttribute attributes[2]{};
  launch.attrs = attributes;
  if (early) attributes[launch.numAttrs++] = early_start();
  if (args.pieces > 1 && args.arrived == nullptr) {
    cudaLaunchAttribute& cluster = attributes[launch.numAttrs++];
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = args.pieces;
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  }
  cudaLaunchKernelEx(&launch, attention_decode<D>, args);
}

}  // namespace longgen::cuda::hopper
