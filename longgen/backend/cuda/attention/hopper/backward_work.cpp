#include "longgen/backend/cuda/attention/hopper/backward_work.h"

#include <algorithm>
#include <unordered_map>

namespace longgen::cuda::hopper {
namespace {

// The items of one document.
class Builder {
 public:
  Builder(const BackwardWorkShape& shape, int32_t index, const BackwardDocument& document,
          std::vector<BackwardItem>* items)
      : shape_(shape), items_(*items), first_item_(items->size()) {
    item_.document = index;
    item_.row_begin = document.row_begin;
    item_.length = document.length;
    blocks_ = (document.length + kBackwardBlock - 1) / kBackwardBlock;
    tile_blocks_ = query_rows(shape.head_dim) / kBackwardBlock;
    tiles_ = (blocks_ + tile_blocks_ - 1) / tile_blocks_;
    for (int64_t j = 0; j + shape.local_blocks < blocks_; ++j) {
      if (j < shape.sink_blocks ||
          (shape.stride > 0 && (j + 1 + shape.offset) % shape.stride == 0)) {
        remote_.push_back(static_cast<int32_t>(j));
      }
    }
  }

  void build() {
    const bool in_chunks =
        std::min(shape_.local_blocks, blocks_) / tile_blocks_ > shape_.chunk_tiles;
    const int64_t step = in_chunks ? shape_.chunk_tiles : tiles_;
    for (int64_t begin = 0; begin < tiles_; begin += step) {
      add_columns(begin, std::min(begin + step, tiles_));
    }
    number_parts();
  }

 private:
  // Columns from the last to the first, for the queries of tiles [begin, end); after a column that
  // is the last to meet a remote chunk as local blocks, that chunk.
  void add_columns(int64_t begin, int64_t end) {
    const int64_t last = ((end - 1) * tile_blocks_ + tile_blocks_ - 1) / 2;
    int64_t chunk = (end - 1) / shape_.remote_tiles;  // not yet taken
    for (int64_t c = std::min(last, (blocks_ - 1) / 2); c >= 0; --c) {
      const int64_t last_query = std::min(2 * c + shape_.local_blocks, blocks_ - 1);
      item_.pair = -1;
      item_.blocks[0] = static_cast<int32_t>(2 * c);
      item_.blocks[1] = 2 * c + 1 < blocks_ ? static_cast<int32_t>(2 * c + 1) : -1;
      push(std::max(2 * c / tile_blocks_, begin), std::min(last_query / tile_blocks_ + 1, end));
      for (; chunk >= 0 &&
             (c == 0 || 2 * c <= lowest_local(std::max(begin, chunk * shape_.remote_tiles)));
           --chunk) {
        const int64_t from = std::max(begin, chunk * shape_.remote_tiles);
        if (from >= end || (chunk + 1) * shape_.remote_tiles <= begin) continue;
        add_remote(from, std::min(end, (chunk + 1) * shape_.remote_tiles));
      }
    }
  }

  // The first block, rounded down to a column's, that the queries of a tile see as a local one.
  int64_t lowest_local(int64_t tile) const {
    const int64_t low = std::max<int64_t>(0, tile * tile_blocks_ - shape_.local_blocks + 1);
    return low / 2 * 2;
  }

  void add_remote(int64_t begin, int64_t end) {
    for (size_t i = 0; i < remote_.size(); i += 2) {
      item_.pair = static_cast<int32_t>(i / 2);
      item_.blocks[0] = remote_[i];
      item_.blocks[1] = i + 1 < remote_.size() ? remote_[i + 1] : -1;
      push(std::max((remote_[i] + shape_.local_blocks) / tile_blocks_, begin), end);
    }
  }

  void push(int64_t first, int64_t end) {
    if (first >= end) return;
    item_.first_tile = static_cast<int32_t>(first);
    item_.end_tile = static_cast<int32_t>(end);
    items_.push_back(item_);
  }

  // How many items of the document a block has had, and which is its last.
  void number_parts() {
    std::vector<int32_t> parts(static_cast<size_t>(blocks_), 0);
    for (size_t i = first_item_; i < items_.size(); ++i) {
      for (int w = 0; w < 2; ++w) {
        if (items_[i].blocks[w] < 0) continue;
        items_[i].part[w] = parts[static_cast<size_t>(items_[i].blocks[w])]++;
      }
    }
    for (size_t i = first_item_; i < items_.size(); ++i) {
      for (int w = 0; w < 2; ++w) {
        const int32_t block = items_[i].blocks[w];
        items_[i].last[w] =
            block >= 0 && items_[i].part[w] + 1 == parts[static_cast<size_t>(block)];
      }
    }
  }

  const BackwardWorkShape& shape_;
  std::vector<BackwardItem>& items_;
  size_t first_item_;
  BackwardItem item_;
  int64_t blocks_, tile_blocks_, tiles_;
  std::vector<int32_t> remote_;
};

}  // namespace

void append_backward_items(const BackwardWorkShape& shape,
                           std::span<const BackwardDocument> documents,
                           std::vector<BackwardItem>* items) {
  for (size_t i = 0; i < documents.size(); ++i) {
    if (documents[i].length == 0) continue;
    Builder(shape, static_cast<int32_t>(i), documents[i], items).build();
  }
}

int32_t turn_of(const BackwardItem& item, int32_t tile, int64_t local_blocks, int head_dim) {
  const int64_t tile_blocks = query_rows(head_dim) / kBackwardBlock;
  const int64_t first = tile * tile_blocks;
  const int64_t highest = (first + tile_blocks - 1) / 2;
  if (item.pair < 0) return static_cast<int32_t>(highest - item.blocks[0] / 2);
  const int64_t lowest = std::max<int64_t>(0, first - local_blocks + 1) / 2;
  return static_cast<int32_t>(highest - lowest + 1 + item.pair);
}

}  // namespace longgen::cuda::hopper
