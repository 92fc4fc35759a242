// Which key blocks the query blocks of a tile see, from the last to the first. Also runs on the
// host, for tests.
#pragma once

#include <cuda_runtime_api.h>

#include "longgen/backend/cuda/attention/hopper/forward_args.h"

namespace longgen::cuda::hopper {

// AttentionPattern with blocks of 64, for one KV head.
struct BlockPattern {
  int sink, local, stride, offset;

  __host__ __device__ BlockPattern(const PatternArgs& p, int kv_head)
      : sink(p.sink_blocks),
        local(p.local_blocks),
        stride(p.stride),
        offset(p.stride > 0 ? p.offsets[kv_head] : 0) {}

  // Whether query block i sees key block j.
  __host__ __device__ bool sees(int i, int j) const {
    if (j > i) return false;
    return i - j < local || j < sink || (stride > 0 && (j + 1 + offset) % stride == 0);
  }
};

// The key blocks seen by at least one query block of [first, last], descending.
class KeyWalk {
 public:
  __host__ __device__ KeyWalk(const BlockPattern& pattern, int first, int last)
      : pattern_(pattern),
        first_local_(first < pattern.local ? 0 : first - pattern.local + 1),
        block_(last) {}

  // The next block, or -1 after the last.
  __host__ __device__ int next() {
    const int block = block_;
    if (block >= 0) block_ = before(block);
    return block;
  }

  // A block that all query blocks see, being a sink or a strided one.
  __host__ __device__ bool is_remote(int block) const { return block < first_local_; }

 private:
  __host__ __device__ int before(int block) const {
    const int below = block - 1;
    if (below >= first_local_) return below;
    if (pattern_.stride > 0 && block < first_local_ && block >= pattern_.sink) {  // a strided one
      const int strided = block - pattern_.stride;
      return strided >= pattern_.sink ? strided : pattern_.sink - 1;
    }
    const int in_sink = below < pattern_.sink ? below : pattern_.sink - 1;
    if (pattern_.stride == 0) return in_sink;
    const int strided = below - (below + 1 + pattern_.offset) % pattern_.stride;
    return strided > in_sink ? strided : in_sink;
  }

  BlockPattern pattern_;
  int first_local_, block_;
};

// What a warpgroup does with a pair of key blocks: 8 bits.
enum StepBits : int {
  kSeesFirst = 1,
  kSeesSecond = 2,
  kFirstIsDiagonal = 4,
  kSecondIsDiagonal = 8,
  kBeginsTile = 16,
  kSeesBoth = kSeesFirst | kSeesSecond,
  kHasDiagonal = kFirstIsDiagonal | kSecondIsDiagonal,
};
inline constexpr int kEnd = -1;  // instead of a word of steps: there is no more work

// Of a pair that `walk` visited; second is -1 when there is none.
__host__ __device__ inline int step_bits(const BlockPattern& pattern, const KeyWalk& walk,
                                         int query_block, int first, int second) {
  int bits = 0;
  if (walk.is_remote(first) || pattern.sees(query_block, first)) bits |= kSeesFirst;
  if (second >= 0 && (walk.is_remote(second) || pattern.sees(query_block, second))) {
    bits |= kSeesSecond;
  }
  if (first == query_block) bits |= kFirstIsDiagonal;
  if (second == query_block) bits |= kSecondIsDiagonal;
  return bits;
}

}  // namespace longgen::cuda::hopper
