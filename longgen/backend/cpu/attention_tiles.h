// What the forward and backward drivers of attention share: how queries are cut into tiles, which
// key tiles a query tile sees, and how operands are laid out for the kernels.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "longgen/backend/backend.h"
#include "longgen/backend/cpu/attention_kernels.h"
#include "longgen/base/checked.h"

namespace longgen {

constexpr int64_t kMaxTileKeys = 128;
// Blocks are joined up to here, so that scores of a panel stay in the nearest cache.
constexpr int64_t kJoinedKeys = 64;
// Key tiles that are packed at a time, to be used by every panel of a query tile in turn.
constexpr int64_t kPackedTiles = 8;
constexpr int64_t kMaxTileBlocks = kMaxTileKeys / 16;
// Blocks of which rows see different ones are joined up to here: what is computed in vain (above
// the diagonal, before a window) costs less than narrow products.
constexpr int64_t kMaxMaskedKeys = 64;

// The kernels of an instruction set for tensors of `dtype` (f32 or bf16).
const AttentionKernels& attention_kernels_for(CpuIsa isa, DType dtype);

// Sizes that follow from the head and the kernels; elements of a row are padded to `row` so that
// every layout of them is whole vectors and whole tiles.
struct AttentionLayout {
  const AttentionKernels& kernels;
  DType dtype;  // of queries, keys, values and outputs as stored
  int64_t head_dim, group;
  int64_t row;          // elements of a row in `rows` layout, zero from head_dim on
  int64_t row_units;    // units of it
  int64_t head_depth;   // depth in units of a product over head_dim
  int64_t tile_tokens;  // tokens of a query tile: a multiple of 16
  int64_t tile_rows;    // its rows, rounded up to whole panels

  AttentionLayout(const AttentionKernels& kernels, DType dtype, int64_t head_dim, int64_t group,
                  int64_t target_rows);

  int64_t element_units(int64_t elements) const {
    return kernels.bf16_units ? elements / 2 : elements;
  }
  int64_t padded_keys(int64_t keys) const {
    return round_up<int64_t>(keys, std::max<int64_t>(kernels.depth_multiple, 16));
  }
  int64_t panels() const { return tile_rows / kPanel; }
  // Rows that see a key tile are taken in multiples of this.
  int64_t lane_step() const { return kernels.bf16_units ? 32 : 16; }
};

// Queries at positions [begin, end) of a sequence; row r is position base + r / group, head
// r % group of the group. Rows before `begin` are padding. Either base is a multiple of 16 or all
// queries are in one block, so that the rows which see a key block are whole vectors.
struct QueryTile {
  int64_t sequence = 0;
  int64_t base = 0, begin = 0, end = 0;
};

// Calls f(row, token, head) for rows [begin, end) of a query tile, row = token * group + head.
// Divisions for every row would take longer than what is done with most rows.
template <typename F>
void for_rows(int64_t group, int64_t begin, int64_t end, F f) {
  int64_t token = begin / group, head = begin % group;
  for (int64_t row = begin; row < end; ++row) {
    f(row, token, head);
    if (++head < group) continue;
    head = 0;
    ++token;
  }
}

// The same by tokens: f(row, token, head, heads) for rows [row, row + heads) of one token.
template <typename F>
void for_groups(int64_t group, int64_t begin, int64_t end, F f) {
  int64_t token = begin / group, head = begin % group;
  for (int64_t row = begin; row < end; head = 0, ++token) {
    const int64_t heads = std::min(group - head, end - row);
    f(row, token, head, heads);
    row += heads;
  }
}

// The tokens of a query tile (a multiple of 16, at most `most`) such that `tokens` make some
// `tiles` tiles. Key tiles are packed once a query tile; beyond the window a longer one saves
// little.
int64_t tile_tokens_for(const AttentionPattern& pattern, int64_t tokens, int64_t tiles,
                        int64_t most);

// Cuts positions [begin, end) at multiples of tile_tokens and appends the tiles.
void append_query_tiles(std::vector<QueryTile>& tiles, int64_t sequence, int64_t begin, int64_t end,
                        int64_t tile_tokens, int64_t block_size);

// Hands out 64-byte aligned pieces of a workspace; over a null pointer it only measures. Between
// pieces some lines are left out: most have a power of two for their size, and a load that follows
// a store to the same place of another page waits for it.
class Pieces {
 public:
  explicit Pieces(std::byte* base) : base_(base) {}
  template <typename T>
  T* take(int64_t count) {
    std::byte* at = base_ == nullptr ? nullptr : base_ + used_;
    used_ += round_up<int64_t>(count * static_cast<int64_t>(sizeof(T)), 64) + kApart;
    return reinterpret_cast<T*>(at);
  }
  int64_t used() const { return used_; }

 private:
  static constexpr int64_t kApart = 5 * 64;
  std::byte* base_;
  int64_t used_ = 0;
};

// Key blocks that rows [row_begin, row_end) of a query tile see.
struct KeyTile {
  int64_t blocks[kMaxTileBlocks];
  int64_t count = 0;
  int64_t keys = 0;                    // in all
  int64_t row_begin = 0, row_end = 0;  // multiples of 16
  bool diagonal = false;  // of the tile's last blocks: a row sees the keys at or before it
  bool masked = false;    // rows see different keys (RowMasks)
  bool windowed = false;  // rows see the blocks as long as their window holds them
  bool uniform = true;    // so, or otherwise, are all blocks
};

// What rows of a query tile see of masked key tiles; positions less the tile's base.
struct RowMasks {
  int32_t* position;  // [tile_rows]
  int32_t* lowest;    // [tile_rows] first key of a row's window
  int32_t* none;      // [tile_rows] below every key

  RowMasks(int64_t tile_rows, Pieces& pieces);
  void fill(const AttentionPattern& pattern, const QueryTile& tile, int64_t group, int64_t rows);
  // For rows [row, row + count): none where all of them see all keys.
  AttentionMask of(const KeyTile& keys, const AttentionPattern& pattern, const QueryTile& tile,
                   int64_t row, int64_t count) const;
};

// Which blocks may share a key tile.
enum class KeyJoining : uint8_t { kAny, kNeighbours };

// The key tiles of a query tile in a fixed order; next() gives them one by one. With parts > 1 only
// those of the part-th of that many even pieces.
class KeyTiles {
 public:
  KeyTiles(const AttentionPattern& pattern, const QueryTile& tile, int64_t kv_head, int64_t group,
           KeyJoining joining, int64_t part = 0, int64_t parts = 1);
  bool next(KeyTile* out);

 private:
  int64_t block_at(int64_t index);
  KeyTile single(int64_t block) const;
  bool joins(const KeyTile& tile, const KeyTile& next) const;

  const AttentionPattern& pattern_;
  const QueryTile& tile_;
  int64_t kv_head_, group_;
  KeyJoining joining_;
  std::vector<BlockRange> ranges_;
  size_t range_ = 0;
  int64_t range_first_ = 0;   // index of the current range's first block
  int64_t at_ = 0, end_ = 0;  // of the blocks in the order of the ranges
};

// Memory that will be wanted next, brought near a little at a time between the kernels of what is
// wanted now: rows of keys lie far apart, and a processor foresees few of them.
class Fetcher {
 public:
  void clear();
  void add(const void* first_row, int64_t rows, int64_t row_bytes, int64_t stride_bytes);
  // All that was added will have been fetched after `calls` calls of fetch().
  void spread(int64_t calls);
  void fetch();

 private:
  struct Piece {
    const std::byte* row;  // of those left, the first
    int64_t rows, row_bytes, stride;
  };
  std::vector<Piece> pieces_;
  size_t at_ = 0;
  int64_t rows_ = 0, step_ = 0;
};

// Brings rows near at once: a few dozen lines, which hold up what comes next less than missing them
// one by one would.
void fetch_rows(const std::byte* first_row, int64_t rows, int64_t row_bytes, int64_t stride_bytes);

// Between its construction and destruction the thread may run products.
class ProductScope {
 public:
  explicit ProductScope(const AttentionKernels& kernels) : kernels_(kernels) {
    if (kernels_.begin != nullptr) kernels_.begin();
  }
  ~ProductScope() {
    if (kernels_.end != nullptr) kernels_.end();
  }
  ProductScope(const ProductScope&) = delete;
  ProductScope& operator=(const ProductScope&) = delete;

 private:
  const AttentionKernels& kernels_;
};

// Copies n rows of head_dim stored elements, src_row apart, into `rows` layout.
void load_rows(const AttentionLayout& layout, uint32_t* dst, const std::byte* src, int64_t src_row,
               int64_t n);

// A product's left operand.
struct LeftOperand {
  const uint32_t* data;
  int64_t row, depth;  // strides, as in AttentionProduct
};

// The same numbers as `rows` [n, row] with depth n (padded_keys(n) rows, zero past n); where units
// are pairs they are put into `units` [kMaxTileKeys / 2, head_dim].
LeftOperand down_columns(const AttentionLayout& layout, const uint32_t* rows, int64_t n,
                         uint32_t* units);

// Row `block * block_size` of a KV head, as bytes. Throws Error naming a block that was released or
// is outside the table.
const std::byte* key_block(const KvView& kv, const void* base, DType dtype, int64_t block,
                           int64_t head);

// Fills `rows` with the keys (or values) of a tile, zero up to padded_keys(keys).
void load_key_rows(const AttentionLayout& layout, uint32_t* rows, const KeyTile& tile,
                   const KvView& kv, const void* base, int64_t block_size, int64_t head);

// Adds the keys (or values) of a tile.
void add_key_rows(const AttentionLayout& layout, Fetcher& fetcher, const KeyTile& tile,
                  const KvView& kv, const void* base, int64_t block_size, int64_t head);

// down_columns() of what load_key_rows() would give; `rows` is used where it must be.
LeftOperand key_columns(const AttentionLayout& layout, uint32_t* rows, uint32_t* units,
                        const KeyTile& tile, const KvView& kv, const void* base, int64_t block_size,
                        int64_t head);

}  // namespace longgen
