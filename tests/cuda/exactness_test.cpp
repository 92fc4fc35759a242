// Attention at its real lengths: rows and columns against f64, and equal bits over many repeats.
// What takes longer than a few seconds runs with LONGGEN_LONG_TESTS=1.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "longgen/base/rng.h"
#include "tests/cuda/cuda_parity.h"
#include "tests/cuda/long_attention.h"

namespace longgen::testing {
namespace {

AttentionPattern full() { return AttentionPattern::full(); }
AttentionPattern sink_window() { return {.block_size = 64, .sink_blocks = 1, .local_blocks = 32}; }
AttentionPattern strided() {
  return {.block_size = 64, .sink_blocks = 1, .local_blocks = 16, .stride = 64};
}

// `count` of [0, rows), the ends among them.
std::vector<int64_t> some(int64_t rows, int64_t count) {
  std::vector<int64_t> all(static_cast<size_t>(std::min(rows, count)));
  std::iota(all.begin(), all.end(), 0);
  if (rows <= count) return all;
  Rng rng(7, static_cast<uint64_t>(rows));
  for (int64_t& x : all) x = static_cast<int64_t>(rng.below(static_cast<uint64_t>(rows)));
  all.front() = 0;
  all.back() = rows - 1;
  return all;
}

class CudaExactness : public ::testing::Test {
 protected:
  void SetUp() override {
    backend_ = cuda_backend_or_null();
    if (backend_ == nullptr) GTEST_SKIP() << "no GPU";
  }
  Backend& backend() { return *backend_; }

  void expect_right(const LongCase& c, int64_t queries, int64_t keys, bool quiet = false) {
    SCOPED_TRACE(c.to_string());
    LongAttention attention(backend(), c);
    attention.poison();
    attention.run();
    const int64_t last = c.kv_heads - 1;
    attention.expect_rows(0, some(c.rows, queries));
    attention.expect_rows(c.q_heads - 1, some(c.rows, queries));
    attention.expect_columns(last, some(c.rows, keys));
    if (quiet) return;
    const LongAttention::Apart& apart = attention.apart();
    fmt::print("{}: apart {:.1e}, worst row {:.1e}, of plain bf16's {:.2f}\n", c.to_string(),
               apart.all, apart.worst, apart.of_plain);
  }

  void expect_equal_bits(const LongCase& c, int repeats) {
    SCOPED_TRACE(c.to_string());
    LongAttention attention(backend(), c);
    attention.poison();
    attention.run();
    attention.remember();
    for (int i = 0; i < repeats; ++i) {
      if (i % 10 == 0) attention.poison();
      attention.run();
      ASSERT_EQ(attention.differing_words(), 0) << "repeat " << i;
    }
  }

 private:
  Backend* backend_ = nullptr;
};

class CudaLongExactness : public CudaExactness {
 protected:
  void SetUp() override {
    CudaExactness::SetUp();
    if (!IsSkipped() && !long_tests()) GTEST_SKIP() << "runs with LONGGEN_LONG_TESTS=1";
  }
};

// Around a block, a tile, a window and a window with its sink; windows longer than the sequence.
TEST_F(CudaExactness, EdgesOfBlocksTilesAndWindows) {
  const AttentionPattern narrow{.block_size = 64, .sink_blocks = 1, .local_blocks = 2};
  const AttentionPattern often{.block_size = 64, .sink_blocks = 1, .local_blocks = 2, .stride = 4};
  for (const int64_t dim : {64, 128}) {
    for (const AttentionPattern& pattern : {full(), sink_window(), strided(), narrow, often}) {
      for (const int64_t rows :
           {1, 63, 64, 65, 127, 128, 129, 191, 192, 193, 2047, 2048, 2049, 2111, 2112, 2113}) {
        expect_right({.q_heads = dim == 64 ? 6 : 4,
                      .kv_heads = dim == 64 ? 2 : 1,
                      .head_dim = dim,
                      .rows = rows,
                      .pattern = pattern},
                     rows < 200 ? 200 : 24, rows < 200 ? 200 : 12, true);
      }
    }
  }
}

TEST_F(CudaExactness, RowsAndColumnsOf128K) {
  for (const AttentionPattern& pattern : {full(), sink_window(), strided()}) {
    expect_right({8, 2, 128, 131072, pattern}, 8, 6);
    expect_right({9, 3, 64, 131000, pattern}, 8, 6);  // no multiple of a block
  }
}

TEST_F(CudaLongExactness, RowsPastTwoToThe31Elements) {
  constexpr int64_t kRows = (1 << 19) + 1000;  // times 32 heads of 128
  for (const AttentionPattern& pattern : {sink_window(), strided()}) {
    expect_right({32, 32, 128, kRows, pattern}, 12, 8);
  }
}

TEST_F(CudaLongExactness, EqualBitsOver1000RepeatsAt8K) {
  for (const AttentionPattern& pattern : {full(), sink_window(), strided()}) {
    expect_equal_bits({32, 8, 128, 8192, pattern}, 1000);
    expect_equal_bits({9, 3, 64, 8192, pattern}, 1000);
  }
}

TEST_F(CudaLongExactness, EqualBitsOver20RepeatsAt128K) {
  expect_equal_bits({8, 2, 128, 131072, full()}, 20);
  expect_equal_bits({9, 3, 64, 131072, full()}, 20);
  for (const AttentionPattern& pattern : {sink_window(), strided()}) {
    expect_equal_bits({32, 8, 128, 131072, pattern}, 20);
    expect_equal_bits({32, 32, 128, 131072, pattern}, 20);
    expect_equal_bits({9, 3, 64, 131072, pattern}, 20);
  }
}

}  // namespace
}  // namespace longgen::testing
