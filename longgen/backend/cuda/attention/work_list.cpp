#include "longgen/backend/cuda/attention/work_list.h"

#include <algorithm>

#include "longgen/base/error.h"

namespace longgen::cuda {

std::vector<Tile> make_tiles(std::span<const int64_t> rows) {
  std::vector<Tile> tiles;
  for (size_t i = 0; i < rows.size(); ++i) {
    require(rows[i] >= 0 && rows[i] <= INT32_MAX - kTileRows,
            "cuda attention: sequence {} has {} rows, more than a call takes", i, rows[i]);
    for (int64_t first = 0; first < rows[i]; first += kTileRows) {
      tiles.push_back({static_cast<int32_t>(i), static_cast<int32_t>(first)});
    }
  }
  return tiles;
}

int32_t key_splits(int64_t blocks, int64_t processors, int64_t key_tiles, int64_t least_tiles) {
  if (blocks <= 0) return 1;
  const int64_t wanted = 2 * processors / blocks;
  return static_cast<int32_t>(
      std::clamp<int64_t>(std::min(wanted, key_tiles / std::max<int64_t>(1, least_tiles)), 1, 64));
}

}  // namespace longgen::cuda
