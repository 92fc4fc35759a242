// Attention of a few queries over many keys (decode): arguments, and what the kernel can take.
#pragma once

#include "longgen/backend/cuda/attention/launch.h"

namespace longgen::cuda::hopper {

// Packed rows (query x head of the group) of a sequence at most.
inline constexpr int kDecodeRows = 16;
inline constexpr int kMostPieces = 64;
inline constexpr int kMostClustered = 8;  // thread blocks of a cluster that every Hopper GPU has

struct DecodeArgs {
  ForwardArgs call;  // tiles: not read; splits and partials: see below
  int32_t sequences = 0;
  // Pieces of a sequence's keys, each a thread block's. Their results are merged in order, either
  // within a cluster of up to kMostClustered blocks (arrived and call.partials are null) or by the
  // block that finishes last: from f32 [sequences, kv_heads, pieces, 16, head_dim + 2] in
  // call.partials, the last two being the maximum and the sum, with counters [sequences, kv_heads]
  // that are 0 before the launch and after it.
  int32_t pieces = 1;
  uint32_t* arrived = nullptr;
};

// Whether the kernel can take the call, of whose sequences none has more than most_rows queries:
// bf16 in 16-byte steps is the caller's to check.
bool takes_decode(const ForwardArgs& call, int64_t most_rows);
// Into how many pieces to cut the keys, for this many pairs of a sequence and a KV head; at least
// two blocks of keys in each.
struct DecodePieces {
  int count = 1;
  bool clustered = false;
};
DecodePieces decode_pieces(int64_t heads, int64_t key_blocks, int processors);
int64_t decode_partial_bytes(int64_t heads, int64_t pieces, int64_t head_dim);
// early: starts while the kernel before it still runs, if that one allows it. Nothing that may run
// then writes keys or values of blocks before that of a sequence's first query, nor the sequences
// and block tables.
template <int D>
void launch_decode(const DecodeArgs& args, bool early, cudaStream_t stream);

}  // namespace longgen::cuda::hopper
