// What the wgmma backward's kernels are given. See backward.cuh for how they use it.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace longgen::cuda::hopper {

inline constexpr int kBackwardBlock = 64;  // keys of a warpgroup: the pattern's block

// Two key blocks of one document, one for each warpgroup, and the query tiles that they meet.
struct BackwardItem {
  int32_t document = 0;
  int32_t row_begin = 0, length = 0;     // of the document
  int32_t blocks[2] = {0, -1};           // -1: none (only the second)
  int32_t first_tile = 0, end_tile = 0;  // tiles of query_rows(head_dim) queries
  // -1: blocks 2 c and 2 c + 1 for the queries that see them as local ones. p >= 0: the p-th pair
  // of the document's sinks and strided blocks, for the queries past their local range.
  int32_t pair = -1;
  int32_t part[2] = {0, 0};  // earlier items of the same block
  int32_t last[2] = {1, 1};  // no later item has the block
  int32_t slot[2] = {0, 0};  // where the sums of a block in several items rest
};

// A block of 64 queries that a document has, in the order in which they become complete.
struct BackwardFinish {
  int32_t document = 0, block = 0;  // of the document
  int32_t row_begin = 0;            // of the document
  int32_t turns = 0;                // items that add to it
};

// Consecutive KV heads with the same items.
struct HeadGroup {
  int32_t unit_begin = 0;  // units (item, head) of earlier groups
  int32_t item_begin = 0, item_count = 0;
  int32_t head_begin = 0, head_count = 0;
};

// Tensor maps of a document, so that copies see zeros (and write nothing) beyond its end.
enum BackwardMap { kMapQ, kMapDout, kMapK, kMapV, kMapDq, kMapDk, kMapDv, kBackwardMaps };

struct BackwardKernelArgs {
  const CUtensorMap* maps = nullptr;  // [documents, kBackwardMaps]
  const BackwardItem* items = nullptr;
  const HeadGroup* groups = nullptr;
  const BackwardFinish* finishes = nullptr;  // [groups, finish_count]
  int32_t finish_count = 0;
  int32_t group_count = 0, unit_count = 0;
  int32_t heads_together = 1;  // KV heads whose items alternate
  int32_t ring = 1;            // KV heads with sums of keys of their own
  int32_t slots = 0;           // of a KV head
  int32_t group = 1;           // query heads a KV head
  int32_t local_blocks = 0;    // INT32_MAX: all
  int32_t blocks = 0;          // of kBackwardBlock rows, over all rows of the call
  float scale = 1;

  // [q_heads, blocks + 1, 2, 64 (place_of in backward_stats.cu)] log2-sum-exp (inf: no row), delta.
  const float* stats = nullptr;
  float* query_sums = nullptr;  // [q_heads, blocks, head_dim / 64, 4096] dq before the scale
  int* query_turns = nullptr;   // [q_heads, blocks, head_dim / 64] items that have added; 0
  float* key_sums = nullptr;    // [ring, slots, 2 (dk, dv), 64 * head_dim]
  int* key_turns = nullptr;     // [kv_heads, blocks] items that have added, kFinished; 0
  int* next_unit = nullptr;     // [2] the next item, the next block of queries to finish; 0
};
inline constexpr int kFinished = 1 << 30;

// Queries of a tile: what the registers hold beside the sums of 64 keys.
constexpr int query_rows(int head_dim) { return head_dim > 64 ? 64 : 128; }

template <int D>
void launch_backward(const BackwardKernelArgs& args, int processors, cudaStream_t stream);

// The kernel before: see backward_stats.cu.
struct BackwardStatsArgs {
  const void *out = nullptr, *dout = nullptr;
  const float* lse = nullptr;
  int64_t out_row = 0, out_head = 0, dout_row = 0, dout_head = 0, lse_head = 0;
  const int32_t* block_rows = nullptr;  // [blocks] rows of a document in each block of 64
  int32_t blocks = 0, q_heads = 0, head_dim = 0;
  float* stats = nullptr;
};
void backward_stats(const BackwardStatsArgs& args, cudaStream_t stream);

}  // namespace longgen::cuda::hopper
