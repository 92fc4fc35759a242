// Attention forward on wgmma and TMA: arguments, and what the kernels can take.
//
// A work item is a tile of queries of one head. Tiles begin at multiples of 64 positions, so that
// each of a thread block's warpgroups has exactly one query block of the pattern; rows outside the
// sequence's queries are computed from whatever is there and not stored.
#pragma once

#include <cuda.h>

#include "longgen/backend/cuda/attention/launch.h"

namespace longgen::cuda::hopper {

inline constexpr int kBlock = 64;  // tokens of a pattern's block, and rows of a warpgroup

// Where the keys of a sequence lie, for the copies: dimensions (channel, token, head, page), boxes
// of 64 x 64. Contiguous keys are one page of `length` tokens; else pages have 64 tokens each.
// last_values is of the sequence's last page, cut off at its length: what was never written there
// arrives as zeros.
struct KvMaps {
  CUtensorMap keys, values, last_values;
  int32_t paged = 0;
};

struct HopperForwardArgs {
  CUtensorMap q, out;            // (channel, row, head): boxes of 64 x the tile's rows; of 64 x 16
  ForwardArgs call;              // `tiles`: queries from position `first` on
  const KvMaps* kv = nullptr;    // [sequences], device
  int32_t* next_item = nullptr;  // device, 0: items are handed out as thread blocks get free
  int32_t processors = 0;
};

// Rows of a tile for a head size; 0: there is no kernel.
constexpr int tile_rows(int64_t head_dim) {
  return head_dim == 128 ? 2 * kBlock : head_dim == 64 ? 3 * kBlock : 0;
}
template <int D>
void launch_forward(const HopperForwardArgs& args, cudaStream_t stream);

}  // namespace longgen::cuda::hopper
