// AttentionPattern on the device: which pairs are visible, and a walk over the key tiles that a
// tile of queries sees.
#pragma once

#include "longgen/backend/cuda/attention/launch.h"

namespace longgen::cuda {

struct DevicePattern {
  int shift, sink, local, stride, offset;

  __device__ DevicePattern(const PatternArgs& p, int kv_head)
      : shift(p.block_shift),
        sink(p.sink_blocks),
        local(p.local_blocks),
        stride(p.stride),
        offset(p.offsets[kv_head]) {}

  __device__ bool is_strided(int block) const {
    return stride > 0 && (block + 1 + offset) % stride == 0;
  }
  __device__ bool sees(int query, int key) const {
    if (key > query) return false;
    const int key_block = key >> shift;
    return (query >> shift) - key_block < local || key_block < sink || is_strided(key_block);
  }
  // The first strided block at or after `block`; only with a stride.
  __device__ int next_strided(int block) const {
    const int past = (block + 1 + offset) % stride;
    return past == 0 ? block : block + stride - past;
  }
};

// Key tiles of kTileRows keys seen by queries at positions [first, last].
struct KeyTiles {
  const DevicePattern& pattern;
  int first, last;  // query positions
  int end;          // one past the last tile
  int first_local;  // tiles from here to `end` hold a local block

  __device__ KeyTiles(const DevicePattern& p, int first_position, int last_position)
      : pattern(p), first(first_position), last(last_position) {
    end = last / kTileRows + 1;
    const int block = first >> p.shift;
    first_local = block < p.local ? 0 : ((block - p.local + 1) << p.shift) / kTileRows;
  }

  // The first visible tile at or after `tile`; `end` or more: none.
  __device__ int next(int tile) const {
    if (tile >= first_local || tile * kTileRows < pattern.sink << pattern.shift) return tile;
    int found = first_local;
    if (pattern.stride > 0) {
      const int block = pattern.next_strided((tile * kTileRows) >> pattern.shift);
      found = min(found, max(tile, (block << pattern.shift) / kTileRows));
    }
    return found;
  }
  __device__ int count() const {
    if (first_local == 0) return end;
    int n = 0;
    for (int tile = next(0); tile < end; tile = next(tile + 1)) ++n;
    return n;
  }
  // The visible tile with this number, or `end`.
  __device__ int at(int number) const {
    if (first_local == 0) return min(number, end);
    int tile = next(0);
    for (; number > 0 && tile < end; --number) tile = next(tile + 1);
    return min(tile, end);
  }
  // Every query sees every key of the tile.
  __device__ bool is_whole(int tile) const {
    const int first_key = tile * kTileRows, last_key = first_key + kTileRows - 1;
    if (last_key > first) return false;
    const int first_block = first_key >> pattern.shift, last_block = last_key >> pattern.shift;
    return (last >> pattern.shift) - first_block < pattern.local || last_block < pattern.sink ||
           (first_block == last_block && pattern.is_strided(first_block));
  }
};

// Queries that see at least one key of [first_key, last_key]: positions [first_key, result).
__device__ inline int queries_end(const DevicePattern& p, int first_key, int last_key, int length) {
  const int first_block = first_key >> p.shift, last_block = last_key >> p.shift;
  if (first_block < p.sink || p.local == INT32_MAX) return length;
  if (p.stride > 0 && p.next_strided(first_block) <= last_block) return length;
  const long long end = static_cast<long long>(last_block + p.local) << p.shift;
  return static_cast<int>(min(end, static_cast<long long>(length)));
}

// Element offset of (head, position); negative: the block has been released.
__device__ inline int64_t kv_offset(const SequenceArgs& s, int shift, int head, int position) {
  const int block = position >> shift;
  const int64_t page = s.block_table != nullptr ? s.block_table[block] : block;
  if (page < 0) return -1;
  return page * s.page_stride + head * s.head_stride +
         static_cast<int64_t>(position & ((1 << shift) - 1)) * s.token_stride;
}

}  // namespace longgen::cuda
