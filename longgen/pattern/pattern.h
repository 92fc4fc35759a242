// Which tokens a layer sees. Pure arithmetic; every other room asks here.
//
// Positions are absolute in the document; block = position / block_size. Query block i sees key
// block j <= i iff
//     i - j < local_blocks   or   j < sink_blocks   or
//     (stride > 0 and (j + 1 + offset[kv_head]) % stride == 0)
// and inside the diagonal block (i == j) only keys at or before the query. Sinks are positional:
// the first blocks of the document. After LongGen (arXiv 2410.01485), section 3.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace longgen {

// Blocks begin, begin + step, begin + 2 step, ... < end.
struct BlockRange {
  int64_t begin = 0, end = 0, step = 1;

  int64_t count() const { return end <= begin ? 0 : (end - begin + step - 1) / step; }
  bool operator==(const BlockRange&) const = default;
};

struct AttentionPattern {
  static constexpr int64_t kAll = std::numeric_limits<int64_t>::max();

  int64_t block_size = 64;  // tokens; 16, 32, 64 or 128
  int64_t sink_blocks = 0;
  int64_t local_blocks = kAll;         // counts the diagonal block; kAll is full attention
  int64_t stride = 0;                  // blocks; 0: none
  std::vector<int64_t> offsets = {0};  // one for all KV heads, or one per (global) KV head

  static AttentionPattern full(int64_t block_size = 64) { return {.block_size = block_size}; }

  bool operator==(const AttentionPattern&) const = default;

  // Throws Error naming the field: block size outside {16, 32, 64, 128}, local_blocks < 1,
  // negative counts, offsets outside [0, stride), offsets.size() neither 1 nor num_kv_heads.
  void validate(int64_t num_kv_heads) const;

  bool is_full() const { return local_blocks == kAll; }
  int64_t offset(int64_t kv_head) const {
    return offsets.size() == 1 ? offsets[0] : offsets[static_cast<size_t>(kv_head)];
  }
  // True when heads a and b see the same blocks, so that they may share a block table.
  bool same_for_heads(int64_t a, int64_t b) const { return stride == 0 || offset(a) == offset(b); }

  bool sees_block(int64_t query_block, int64_t key_block, int64_t kv_head) const;
  bool sees(int64_t query_position, int64_t key_position, int64_t kv_head) const;

  // The key blocks that at least one query block of [query_begin, query_end) sees: at most three
  // disjoint ranges (sinks, strided, local), ascending when read in order.
  std::vector<BlockRange> key_blocks(int64_t query_begin, int64_t query_end, int64_t kv_head) const;

  // The query blocks of [query_begin, query_end) that see `key_block`: always one range, perhaps
  // empty. For backward.
  BlockRange query_blocks_of(int64_t key_block, int64_t query_begin, int64_t query_end,
                             int64_t kv_head) const;

  // Whether some query at or after `position` sees the key block.
  bool is_live(int64_t key_block, int64_t position, int64_t kv_head) const;

  // The number of key blocks among [0, num_blocks) that are live for queries at or after
  // `position`.
  int64_t live_blocks(int64_t num_blocks, int64_t position, int64_t kv_head) const;

  // Tokens kept after `length` tokens: those in the blocks that query length - 1 sees. 0 for 0.
  int64_t tokens_kept(int64_t length, int64_t kv_head) const;

  // Exact number of (query, key) pairs that are not masked, for queries [begin, end).
  int64_t pairs(int64_t begin, int64_t end, int64_t kv_head) const;
  int64_t pairs(int64_t length, int64_t kv_head) const { return pairs(0, length, kv_head); }

  // The key blocks before the shard [begin, end) of positions that its queries see, as disjoint
  // ascending ranges; begin must be a multiple of block_size.
  std::vector<BlockRange> remote_blocks(int64_t begin, int64_t end, int64_t kv_head) const;

  // "full" or "local:32,sink:1" (as HybridSpec writes it).
  std::string to_string() const;
};

}  // namespace longgen
