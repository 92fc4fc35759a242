#include "longgen/backend/cuda/attention/hopper/backward_work.h"

#include <algorithm>

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

  // Slots are numbered from first_slot on; returns one past the last.
  int32_t build(int32_t first_slot) {
    const int64_t step = in_chunks() ? shape_.chunk_tiles : tiles_;
    for (int64_t begin = 0; begin < tiles_; begin += step) {
      add_columns(begin, std::min(begin + step, tiles_));
    }
    return number_parts(first_slot);
  }

  void add_finishes(std::vector<BackwardFinish>* finishes) const {
    for (int64_t i = 0; i < blocks_; ++i) {
      const int64_t block = in_chunks() ? i : blocks_ - 1 - i;
      const int64_t first = block / tile_blocks_ * tile_blocks_, last = first + tile_blocks_ - 1;
      const auto seen = std::ranges::upper_bound(remote_, last - shape_.local_blocks);
      const int64_t pairs = (seen - remote_.begin() + 1) / 2;
      finishes->push_back({.document = item_.document,
                           .block = static_cast<int32_t>(block),
                           .row_begin = item_.row_begin,
                           .turns = static_cast<int32_t>(
                               last / 2 - lowest_local(first / tile_blocks_) / 2 + 1 + pairs)});
    }
  }

 private:
  bool in_chunks() const {
    return std::min(shape_.local_blocks, blocks_) / tile_blocks_ > shape_.chunk_tiles;
  }

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
      push(std::max(2 * c / tile_blocks_, begin), std::min(last_query / tile_blocks_ + 1, end),
           items_);
      for (; chunk >= 0 && 2 * (c + shape_.remote_lag) <= lowest_local(first_of(chunk, begin));
           --chunk) {
        add_remote(first_of(chunk, begin), std::min(end, (chunk + 1) * shape_.remote_tiles));
      }
      release_remote();
    }
    for (; chunk >= 0 && (chunk + 1) * shape_.remote_tiles > begin; --chunk) {
      add_remote(first_of(chunk, begin), std::min(end, (chunk + 1) * shape_.remote_tiles));
    }
    items_.insert(items_.end(), remote_items_.begin() + released_, remote_items_.end());
    remote_items_.clear();
    released_ = 0;
  }
  int64_t first_of(int64_t chunk, int64_t begin) const {
    return std::max(begin, chunk * shape_.remote_tiles);
  }
  // After a column: its share of the remote items that are waiting.
  void release_remote() {
    const int64_t columns = std::max<int64_t>(1, shape_.remote_tiles * tile_blocks_ / 2);
    const int64_t waiting = static_cast<int64_t>(remote_items_.size()) - released_;
    credit_ = waiting == 0 ? 0 : credit_ + rate_;
    for (; credit_ >= columns && released_ < static_cast<int64_t>(remote_items_.size());
         credit_ -= columns) {
      items_.push_back(remote_items_[static_cast<size_t>(released_++)]);
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
      push(std::max((remote_[i] + shape_.local_blocks) / tile_blocks_, begin), end, remote_items_);
    }
    rate_ = static_cast<int64_t>(remote_items_.size()) - released_;
  }

  void push(int64_t first, int64_t end, std::vector<BackwardItem>& to) {
    if (first >= end) return;
    item_.first_tile = static_cast<int32_t>(first);
    item_.end_tile = static_cast<int32_t>(end);
    to.push_back(item_);
  }

  // How many items of the document a block has had, which is its last, and where sums rest between.
  int32_t number_parts(int32_t slot) {
    std::vector<int32_t> parts(static_cast<size_t>(blocks_), 0);
    for (size_t i = first_item_; i < items_.size(); ++i) {
      for (int w = 0; w < 2; ++w) {
        if (items_[i].blocks[w] < 0) continue;
        items_[i].part[w] = parts[static_cast<size_t>(items_[i].blocks[w])]++;
      }
    }
    std::vector<int32_t> slots(parts.size(), 0);
    for (size_t i = 0; i < parts.size(); ++i) {
      if (parts[i] > 1) slots[i] = slot++;
    }
    for (size_t i = first_item_; i < items_.size(); ++i) {
      for (int w = 0; w < 2; ++w) {
        const int32_t block = items_[i].blocks[w];
        if (block < 0) continue;
        items_[i].last[w] = items_[i].part[w] + 1 == parts[static_cast<size_t>(block)];
        items_[i].slot[w] = slots[static_cast<size_t>(block)];
      }
    }
    return slot;
  }

  const BackwardWorkShape& shape_;
  std::vector<BackwardItem>& items_;
  size_t first_item_;
  BackwardItem item_;
  int64_t blocks_, tile_blocks_, tiles_;
  std::vector<int32_t> remote_;
  std::vector<BackwardItem> remote_items_;  // from released_ on: waiting for their place
  int64_t released_ = 0, rate_ = 0, credit_ = 0;
};

}  // namespace

int32_t append_backward_items(const BackwardWorkShape& shape,
                              std::span<const BackwardDocument> documents,
                              std::vector<BackwardItem>* items) {
  int32_t slots = 0;
  for (size_t i = 0; i < documents.size(); ++i) {
    if (documents[i].length == 0) continue;
    slots = Builder(shape, static_cast<int32_t>(i), documents[i], items).build(slots);
  }
  return slots;
}

void append_backward_finishes(const BackwardWorkShape& shape,
                              std::span<const BackwardDocument> documents,
                              std::vector<BackwardFinish>* finishes) {
  std::vector<BackwardItem> none;
  for (size_t i = 0; i < documents.size(); ++i) {
    if (documents[i].length == 0) continue;
    Builder(shape, static_cast<int32_t>(i), documents[i], &none).add_finishes(finishes);
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
