// The host's part of the cuda backend: no GPU is needed.
#include "longgen/backend/cuda/attention/work_list.h"

#include <gtest/gtest.h>

#include <vector>

#include "longgen/backend/cuda/cuda_backend.h"
#include "longgen/base/error.h"

namespace longgen::cuda {
namespace {

TEST(WorkList, TilesCoverEveryRowOnce) {
  const std::vector<int64_t> rows = {1, 0, 64, 65, 1000};
  std::vector<int64_t> covered(rows.size(), 0);
  int32_t last = 0;
  for (const Tile& tile : make_tiles(rows)) {
    ASSERT_GE(tile.sequence, last);  // in order
    last = tile.sequence;
    ASSERT_EQ(tile.first, covered[static_cast<size_t>(tile.sequence)]);
    covered[static_cast<size_t>(tile.sequence)] += kTileRows;
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_GE(covered[i], rows[i]);
    EXPECT_LT(covered[i] - rows[i], kTileRows);
  }
}

TEST(WorkList, TooLongIsRefused) {
  const std::vector<int64_t> rows = {int64_t{1} << 31};
  EXPECT_THROW(make_tiles(rows), Error);
}

TEST(WorkList, SplitsFillTheProcessorsButKeepPiecesWhole) {
  EXPECT_EQ(key_splits(264, 132, 2048, 4), 1);  // full already
  EXPECT_EQ(key_splits(8, 132, 2048, 4), 33);
  EXPECT_EQ(key_splits(8, 132, 33, 4), 8);  // a window: no piece under four tiles
  EXPECT_EQ(key_splits(1, 132, 1, 4), 1);
  EXPECT_EQ(key_splits(1, 132, 1 << 20, 4), 64);
  EXPECT_EQ(key_splits(0, 132, 100, 4), 1);
}

// Element (i, j, c) of `x` as a kernel finds it in `rows`.
int64_t offset(const Rows& rows, int64_t r) {
  return (r / rows.inner) * rows.outer_stride + (r % rows.inner) * rows.inner_stride;
}

TEST(Rows, FollowStrides) {
  float base = 0;
  const Tensor wide(&base, DType::kF32, {5, 4, 32}, longgen::Device::kCuda);
  const Tensor x = wide.slice(1, 0, 3).slice(2, 0, 16);
  const Rows rows = last_dimension_rows(x);
  EXPECT_EQ(rows.rows, 15);
  EXPECT_EQ(rows.cols, 16);
  for (int64_t i = 0; i < 5; ++i) {
    for (int64_t j = 0; j < 3; ++j) EXPECT_EQ(offset(rows, i * 3 + j), i * 128 + j * 32);
  }
}

TEST(Rows, ContiguousTensorsAreCutEvenly) {
  float base = 0;
  for (const int64_t n : {4096 * 3, 64 * 7, 100, 1}) {
    const Tensor x(&base, DType::kF32, {n}, longgen::Device::kCuda);
    const Rows rows = rows_of(x);
    EXPECT_EQ(rows.rows * rows.cols, n);
    EXPECT_EQ(rows.outer_stride, rows.rows > 1 ? rows.cols : rows.outer_stride);
  }
}

}  // namespace
}  // namespace longgen::cuda
