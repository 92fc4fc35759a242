#include "longgen/backend/cpu/attention_tiles.h"

#include <cstring>
#include <limits>

#include "longgen/base/error.h"

namespace longgen {

const AttentionKernels& attention_kernels_for(CpuIsa isa, DType dtype) {
  const bool bf16 = dtype == DType::kBF16;
  switch (isa) {
    case CpuIsa::kPortable:
      return kAttentionPortable;
    case CpuIsa::kAvx2:
      return kAttentionAvx2;
    case CpuIsa::kAvx512Bf16:
      if (bf16) return kAttentionAvx512Bf16;
      return kAttentionAvx512;
    case CpuIsa::kAmx:
      if (bf16) return kAttentionAmx;
      return kAttentionAvx512;
    case CpuIsa::kAvx512:
      return kAttentionAvx512;
    case CpuIsa::kAuto:
      break;
  }
  fail("cpu attention: the instruction set has not been chosen");
}

AttentionLayout::AttentionLayout(const AttentionKernels& kernels, DType dtype, int64_t head_dim,
                                 int64_t group, int64_t target_rows)
    : kernels(kernels), dtype(dtype), head_dim(head_dim), group(group) {
  row = kernels.bf16_units ? round_up<int64_t>(head_dim, 32) : head_dim;
  row_units = element_units(row);
  head_depth = element_units(round_up<int64_t>(head_dim, kernels.depth_multiple));
  tile_tokens = target_rows / group;
  const int64_t whole = tile_tokens >= 64 ? 64 : 16;  // blocks and panels
  tile_tokens = std::max<int64_t>(tile_tokens / whole * whole, 16);
  tile_rows = round_up<int64_t>(tile_tokens * group, kPanel);
}

int64_t tile_tokens_for(const AttentionPattern& pattern, int64_t tokens, int64_t tiles,
                        int64_t most) {
  const int64_t even = tokens / tiles / 64 * 64;
  if (!pattern.is_full()) {
    most = std::min(most, round_up<int64_t>(pattern.local_blocks * pattern.block_size, 64));
  }
  return std::min(most, std::max<int64_t>(even, 64));
}

void append_query_tiles(std::vector<QueryTile>& tiles, int64_t sequence, int64_t begin, int64_t end,
                        int64_t tile_tokens, int64_t block_size) {
  while (begin < end) {
    const int64_t next = std::min(end, (begin / tile_tokens + 1) * tile_tokens);
    const bool one_block = begin / block_size == (next - 1) / block_size;
    tiles.push_back({sequence, one_block ? begin : begin / 16 * 16, begin, next});
    begin = next;
  }
}

KeyTiles::KeyTiles(const AttentionPattern& pattern, const QueryTile& tile, int64_t kv_head,
                   int64_t group, KeyJoining joining, int64_t part, int64_t parts)
    : pattern_(pattern), tile_(tile), kv_head_(kv_head), group_(group), joining_(joining) {
  const int64_t size = pattern.block_size;
  ranges_ = pattern.key_blocks(tile.begin / size, (tile.end - 1) / size + 1, kv_head);
  int64_t total = 0;
  for (const BlockRange& r : ranges_) total += r.count();
  at_ = total * part / parts;
  end_ = total * (part + 1) / parts;
}

int64_t KeyTiles::block_at(int64_t index) {
  while (index - range_first_ >= ranges_[range_].count()) {
    range_first_ += ranges_[range_].count();
    ++range_;
  }
  return ranges_[range_].begin + (index - range_first_) * ranges_[range_].step;
}

RowMasks::RowMasks(int64_t tile_rows, Pieces& pieces)
    : position(pieces.take<int32_t>(tile_rows)),
      lowest(pieces.take<int32_t>(tile_rows)),
      none(pieces.take<int32_t>(tile_rows)) {}

void RowMasks::fill(const AttentionPattern& pattern, const QueryTile& tile, int64_t group,
                    int64_t rows) {
  const int64_t size = pattern.block_size;
  int64_t window = 0;
  for_rows(group, 0, rows, [&](int64_t r, int64_t token, int64_t head) {
    if (head == 0 && !pattern.is_full()) {
      window = ((tile.base + token) / size - pattern.local_blocks + 1) * size;
    }
    position[r] = static_cast<int32_t>(token);
    // Masked tiles lie near the query tile: 2^30 keys before it none does.
    lowest[r] = static_cast<int32_t>(std::max(window - tile.base, -(int64_t{1} << 30)));
    none[r] = std::numeric_limits<int32_t>::min();
  });
}

AttentionMask RowMasks::of(const KeyTile& keys, const AttentionPattern& pattern,
                           const QueryTile& tile, int64_t row, int64_t count) const {
  if (!keys.masked) return {};
  const int64_t first_key = keys.blocks[0] * pattern.block_size - tile.base;
  // Keys of a masked tile follow one another; positions and windows ascend with the rows. What the
  // last keys are rounded up by is behind every row's position.
  const bool before_all = position[row] >= first_key + round_up<int64_t>(keys.keys, 16) - 1;
  const bool in_all = !keys.windowed || lowest[row + count - 1] <= first_key;
  if (before_all && in_all) return {};
  return {position + row, (keys.windowed ? lowest : none) + row, static_cast<int32_t>(first_key)};
}

KeyTile KeyTiles::single(int64_t block) const {
  const int64_t size = pattern_.block_size, first = tile_.begin / size;
  const int64_t last = (tile_.end - 1) / size;
  const BlockRange seen = pattern_.query_blocks_of(block, first, last + 1, kv_head_);
  const int64_t begin = std::max(seen.begin * size, tile_.begin);
  const int64_t end = std::min(seen.end * size, tile_.end);
  KeyTile out;
  out.blocks[0] = block;
  out.count = 1;
  out.diagonal = out.masked = block >= first;
  out.windowed =
      !pattern_.is_full() && !pattern_.sees_block(block + pattern_.local_blocks, block, kv_head_);
  out.keys = std::min(size, tile_.end - block * size);
  out.row_begin = (begin - tile_.base) * group_ / 16 * 16;
  out.row_end = round_up<int64_t>((end - tile_.base) * group_, 16);
  return out;
}

bool KeyTiles::joins(const KeyTile& tile, const KeyTile& next) const {
  const int64_t keys = tile.keys + next.keys;
  const bool neighbours = next.blocks[0] == tile.blocks[0] + tile.count;
  if (joining_ == KeyJoining::kNeighbours && !neighbours) return false;
  if (!tile.masked && !next.masked && tile.row_begin == next.row_begin &&
      tile.row_end == next.row_end) {
    return keys <= kJoinedKeys;
  }
  return keys <= kMaxMaskedKeys && neighbours && tile.uniform && tile.windowed == next.windowed;
}

bool KeyTiles::next(KeyTile* out) {
  if (at_ >= end_) return false;
  *out = single(block_at(at_++));
  for (; at_ < end_; ++at_) {
    const KeyTile other = single(block_at(at_));
    if (!joins(*out, other)) break;
    out->masked |=
        other.masked || out->row_begin != other.row_begin || out->row_end != other.row_end;
    out->diagonal |= other.diagonal;
    out->uniform &= out->windowed == other.windowed;
    out->row_begin = std::min(out->row_begin, other.row_begin);
    out->row_end = std::max(out->row_end, other.row_end);
    out->blocks[out->count++] = other.blocks[0];
    out->keys += other.keys;
  }
  return true;
}

void fetch_rows(const std::byte* first_row, int64_t rows, int64_t row_bytes, int64_t stride_bytes) {
  for (const std::byte* row = first_row; rows > 0; --rows, row += stride_bytes) {
    for (int64_t i = 0; i < row_bytes; i += 64) __builtin_prefetch(row + i, 0, 2);
  }
}

void Fetcher::clear() {
  pieces_.clear();
  at_ = 0;
  rows_ = step_ = 0;
}

void Fetcher::add(const void* first_row, int64_t rows, int64_t row_bytes, int64_t stride_bytes) {
  pieces_.push_back({static_cast<const std::byte*>(first_row), rows, row_bytes, stride_bytes});
  rows_ += rows;
}

void Fetcher::spread(int64_t calls) { step_ = ceil_div(rows_, std::max<int64_t>(calls, 1)); }

void Fetcher::fetch() {
  for (int64_t left = step_; left > 0 && at_ < pieces_.size(); --left) {
    Piece& piece = pieces_[at_];
    fetch_rows(piece.row, 1, piece.row_bytes, piece.stride);
    piece.row += piece.stride;
    if (--piece.rows == 0) ++at_;
  }
}

void load_rows(const AttentionLayout& layout, uint32_t* dst, const std::byte* src, int64_t src_row,
               int64_t n) {
  if (layout.dtype == DType::kF32) {
    layout.kernels.load_f32(dst, layout.row, reinterpret_cast<const float*>(src), src_row, n,
                            layout.head_dim);
  } else {
    layout.kernels.load_bf16(dst, layout.row, reinterpret_cast<const uint16_t*>(src), src_row, n,
                             layout.head_dim);
  }
}

LeftOperand down_columns(const AttentionLayout& layout, const uint32_t* rows, int64_t n,
                         uint32_t* units) {
  const AttentionKernels& kernels = layout.kernels;
  if (!kernels.bf16_units) return {rows, 1, layout.row_units};
  const int64_t padded = layout.padded_keys(n), dim = layout.head_dim;
  const auto* src = reinterpret_cast<const uint16_t*>(rows);
  if (kernels.rows_only) {
    kernels.pair_columns(units, kMaxTileKeys / 2, src, layout.row, padded, dim);
    return {units, kMaxTileKeys / 2, 1};
  }
  kernels.pair_rows(units, dim, src, layout.row, padded, dim);
  return {units, 1, dim};
}

LeftOperand key_columns(const AttentionLayout& layout, uint32_t* rows, uint32_t* units,
                        const KeyTile& tile, const KvView& kv, const void* base, int64_t block_size,
                        int64_t head) {
  const AttentionKernels& kernels = layout.kernels;
  if (!kernels.rows_only || block_size % 32 != 0 || tile.keys % block_size != 0) {
    load_key_rows(layout, rows, tile, kv, base, block_size, head);
    return down_columns(layout, rows, tile.keys, units);
  }
  for (int64_t i = 0; i < tile.count; ++i) {
    const std::byte* src = key_block(kv, base, layout.dtype, tile.blocks[i], head);
    kernels.pair_columns(units + i * block_size / 2, kMaxTileKeys / 2,
                         reinterpret_cast<const uint16_t*>(src), kv.token_stride, block_size,
                         layout.head_dim);
  }
  return {units, kMaxTileKeys / 2, 1};
}

const std::byte* key_block(const KvView& kv, const void* base, DType dtype, int64_t block,
                           int64_t head) {
  int64_t page = block;
  if (kv.block_table != nullptr) {
    require(block < kv.block_table_size,
            "cpu attention: a query sees key block {}, but the block table has {} entries", block,
            kv.block_table_size);
    page = kv.block_table[block];
    require(page >= 0, "cpu attention: key block {} has been released, but a query sees it", block);
  }
  const int64_t element = page * kv.page_stride + head * kv.head_stride;
  return static_cast<const std::byte*>(base) + element * dtype_size(dtype);
}

void add_key_rows(const AttentionLayout& layout, Fetcher& fetcher, const KeyTile& tile,
                  const KvView& kv, const void* base, int64_t block_size, int64_t head) {
  const int64_t size = dtype_size(layout.dtype);
  for (int64_t i = 0; i < tile.count; ++i) {
    fetcher.add(key_block(kv, base, layout.dtype, tile.blocks[i], head),
                std::min(block_size, tile.keys - i * block_size), layout.head_dim * size,
                kv.token_stride * size);
  }
}

void load_key_rows(const AttentionLayout& layout, uint32_t* rows, const KeyTile& tile,
                   const KvView& kv, const void* base, int64_t block_size, int64_t head) {
  int64_t n = 0;
  for (int64_t i = 0; i < tile.count; ++i) {
    const int64_t count = std::min(block_size, tile.keys - n);
    load_rows(layout, rows + n * layout.row_units,
              key_block(kv, base, layout.dtype, tile.blocks[i], head), kv.token_stride, count);
    n += count;
  }
  const int64_t padding = layout.padded_keys(n) - n;
  std::memset(rows + n * layout.row_units, 0, static_cast<size_t>(padding * layout.row_units) * 4);
}

}  // namespace longgen
