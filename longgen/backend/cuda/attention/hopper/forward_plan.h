// What the forward kernel is told about a call. Host side.
#pragma once

#include <span>
#include <vector>

#include "longgen/backend/cuda/attention/hopper/forward_args.h"

namespace longgen::cuda::hopper {

// Whether the kernel can take the call: bf16 in 16-byte steps is the caller's to check.
bool takes_forward(const ForwardArgs& call);

// Tiles of `rows` queries, given by the position of their first; those with the most keys first.
std::vector<Tile> forward_tiles(std::span<const SequenceArgs> sequences, int rows);

// For each sequence (an empty one gets no maps). pages: how many its table reaches, 0 where there
// is no table. block_table is not read.
std::vector<KvMaps> forward_kv_maps(std::span<const SequenceArgs> sequences,
                                    std::span<const int64_t> pages, int64_t kv_heads,
                                    int64_t head_dim);

// Maps of q and out, [rows, heads, head_dim], for tiles of tile_rows queries.
void set_query_maps(HopperForwardArgs& args, int64_t rows, int tile_rows);

}  // namespace longgen::cuda::hopper
