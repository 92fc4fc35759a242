// The work of an attention backward call as a list, and the order that makes its sums repeatable.
// Host only: needs no GPU.
//
// Items are taken in the order of the list by whoever is free. What is added to a tile of dq, or to
// a block of dk and dv, is added in that order too: an item waits until all earlier ones have
// added. So the first unfinished item never waits, and the result depends on nothing but the list.
//
// To make waiting rare: columns of two adjacent key blocks come from the last to the first and walk
// their queries upwards from the diagonal. Neighbours then stay a tile or two apart and never want
// the same tile at once. Where columns are longer than `chunk_tiles`, queries are cut into chunks
// that are done one after the other, so that what the columns at work read and add to stays in L2;
// a key block's sums rest in memory between chunks. Sinks and strided blocks are seen by all
// later queries: beyond their local range they are taken in pairs, in chunks of `remote_tiles`,
// `remote_lag` columns after the last column that has such a chunk as local, when that one is done
// or nearly, and spread over the columns that follow.
#pragma once

#include <span>
#include <vector>

#include "longgen/backend/cuda/attention/hopper/backward_args.h"

namespace longgen::cuda::hopper {

struct BackwardWorkShape {
  int64_t sink_blocks = 0, local_blocks = INT32_MAX, stride = 0, offset = 0;  // blocks of 64
  int head_dim = 0;
  int64_t chunk_tiles = 1 << 30;
  int64_t remote_tiles = 64;
  int64_t remote_lag = 0;
};
struct BackwardDocument {
  int32_t row_begin = 0, length = 0;  // row_begin: a multiple of 64
};

// Appends the items of the documents for one KV head; returns how many of their blocks are in
// several items (BackwardItem::slot).
int32_t append_backward_items(const BackwardWorkShape& shape,
                              std::span<const BackwardDocument> documents,
                              std::vector<BackwardItem>* items);

// Appends the blocks of queries of the documents, in the order in which the items complete them.
void append_backward_finishes(const BackwardWorkShape& shape,
                              std::span<const BackwardDocument> documents,
                              std::vector<BackwardFinish>* finishes);

// How many items add to a query tile before this one; as the kernel computes it.
int32_t turn_of(const BackwardItem& item, int32_t tile, int64_t local_blocks, int head_dim);

}  // namespace longgen::cuda::hopper
