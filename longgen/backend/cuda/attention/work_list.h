// The tiles of an attention call. Host only: needs no GPU.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "longgen/backend/cuda/attention/launch.h"

namespace longgen::cuda {

// Tiles of kTileRows rows over sequences of the given numbers of rows, in order. Throws Error
// beyond 2^31 rows a sequence.
std::vector<Tile> make_tiles(std::span<const int64_t> rows);

// Into how many pieces the keys of a tile are cut so that `blocks` thread blocks (tiles x heads)
// fill `processors`, with at least `least_tiles` key tiles a piece; 1 to 64.
int32_t key_splits(int64_t blocks, int64_t processors, int64_t key_tiles, int64_t least_tiles);

}  // namespace longgen::cuda
