#include <algorithm>

#include "longgen/backend/cuda/attention/hopper/decode_args.h"

namespace longgen::cuda::hopper {

bool takes_decode(const ForwardArgs& call, int64_t most_rows) {
  return (call.head_dim == 64 || call.head_dim == 128) &&
         1 << call.pattern.block_shift == kTileRows && most_rows * call.group <= kDecodeRows;
}

int decode_pieces(int64_t heads, int64_t key_blocks, int processors) {
  constexpr int64_t kLeastBlocks = 2, kFewBlocks = 128;
  if (heads <= 0) return 1;
  // Few keys: a cluster merges soonest, but clusters do not fill every corner of the GPU.
  const int64_t clustered = std::min<int64_t>(kMostClustered, 3 * processors / (4 * heads));
  // Many: as many blocks as processors, or, where those would be clusters, many times as many.
  int64_t many = processors / heads;
  if (many > 1 && many <= kMostClustered) many = 8 * processors / heads;
  const int64_t wanted = key_blocks <= kFewBlocks ? clustered : many;
  return static_cast<int>(
      std::clamp<int64_t>(std::min(wanted, key_blocks / kLeastBlocks), 1, kMostPieces));
}

int64_t decode_partial_bytes(int64_t heads, int64_t pieces, int64_t head_dim) {
  return pieces <= kMostClustered ? 0 : heads * pieces * kDecodeRows * (head_dim + 2) * 4;
}

}  // namespace longgen::cuda::hopper
