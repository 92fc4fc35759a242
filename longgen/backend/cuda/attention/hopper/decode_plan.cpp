#include <algorithm>

#include "longgen/backend/cuda/attention/hopper/decode_args.h"

namespace longgen::cuda::hopper {

bool takes_decode(const ForwardArgs& call, int64_t most_rows) {
  return (call.head_dim == 64 || call.head_dim == 128) &&
         1 << call.pattern.block_shift == kTileRows && most_rows * call.group <= kDecodeRows;
}

DecodePieces decode_pieces(int64_t heads, int64_t key_blocks, int processors) {
  constexpr int64_t kLeastBlocks = 2, kFewBlocks = 128;
  if (heads <= 0) return {};
  // Few keys: a cluster merges soonest, but clusters do not fill every corner of the GPU.
  const bool few = key_blocks <= kFewBlocks;
  const int64_t wanted = few ? std::min<int64_t>(kMostClustered, 3 * processors / (4 * heads))
                             : std::min<int64_t>(kMostPieces, processors / heads);
  const auto count =
      static_cast<int>(std::max<int64_t>(1, std::min(wanted, key_blocks / kLeastBlocks)));
  return {count, few && count > 1};
}

int64_t decode_partial_bytes(int64_t heads, int64_t pieces, int64_t head_dim) {
  return heads * pieces * kDecodeRows * (head_dim + 2) * 4;
}

}  // namespace longgen::cuda::hopper
