// The simplest KvStore: every (layer, KV head) has pages of its own, handed out in reversed order.
// Dead blocks are released as soon as the pattern says so, and poisoned.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "longgen/model/decoder.h"

namespace longgen::testing {

class PagedStore : public model::KvStore {
 public:
  // Holds sequences 0 .. sequences - 1. merge_heads: heads with the same liveness form one part.
  PagedStore(const model::ModelConfig& config, DType dtype, int64_t sequences,
             int64_t pages_per_table, bool merge_heads = true);

  // Pages for `tokens` more positions.
  void extend(int64_t sequence, int64_t tokens);
  // Releases what no query at or after the sequence's length sees.
  void release_dead(int64_t sequence);
  int64_t pages_in_use() const;

  std::span<const Part> parts(int64_t layer, int64_t sequence) override;
  DType dtype() const override { return dtype_; }

 private:
  struct Table {
    int64_t layer, head_begin, head_count;
    std::vector<std::byte> pages;  // [page, keys then values, head, token, channel]
    std::vector<int32_t> blocks, free_pages;
  };
  struct Sequence {
    int64_t length = 0;
    std::vector<Table> tables;
  };

  int64_t half_page_elements(const Table& t) const {
    return t.head_count * block_size_ * config_.head_dim;
  }
  int64_t page_bytes(const Table& t) const {
    return 2 * half_page_elements(t) * dtype_size(dtype_);
  }
  void poison(Table& table, int32_t page);

  const model::ModelConfig config_;
  DType dtype_;
  int64_t block_size_;
  std::vector<Sequence> sequences_;
  std::vector<Part> parts_;
};

}  // namespace longgen::testing
