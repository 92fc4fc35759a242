#include "tests/testing/paged_store.h"

#include <cstring>

namespace longgen::testing {

PagedStore::PagedStore(const model::ModelConfig& config, DType dtype, int64_t sequences,
                       int64_t pages_per_table, bool merge_heads)
    : config_(config), dtype_(dtype), block_size_(config.patterns[0].block_size) {
  sequences_.resize(static_cast<size_t>(sequences));
  for (Sequence& sequence : sequences_) {
    for (int64_t layer = 0; layer < config.num_layers; ++layer) {
      const AttentionPattern& pattern = config.patterns[static_cast<size_t>(layer)];
      for (int64_t head = 0; head < config.num_kv_heads;) {
        int64_t end = head + 1;
        while (merge_heads && end < config.num_kv_heads && pattern.same_for_heads(head, end)) ++end;
        Table table{layer, head, end - head, {}, {}, {}};
        table.pages.resize(static_cast<size_t>(pages_per_table * page_bytes(table)));
        for (int32_t page = 0; page < pages_per_table; ++page) {
          poison(table, page);
          table.free_pages.push_back(page);
        }
        sequence.tables.push_back(std::move(table));
        head = end;
      }
    }
  }
}

void PagedStore::poison(Table& table, int32_t page) {
  std::memset(table.pages.data() + page * page_bytes(table), 0xff,
              static_cast<size_t>(page_bytes(table)));
}

void PagedStore::extend(int64_t sequence, int64_t tokens) {
  Sequence& s = sequences_[static_cast<size_t>(sequence)];
  s.length += tokens;
  for (Table& table : s.tables) {
    while (static_cast<int64_t>(table.blocks.size()) * block_size_ < s.length) {
      require(!table.free_pages.empty(), "the test's store is out of pages");
      table.blocks.push_back(table.free_pages.back());
      table.free_pages.pop_back();
    }
  }
}

void PagedStore::release_dead(int64_t sequence) {
  Sequence& s = sequences_[static_cast<size_t>(sequence)];
  for (Table& table : s.tables) {
    const AttentionPattern& pattern = config_.patterns[static_cast<size_t>(table.layer)];
    for (size_t block = 0; block < table.blocks.size(); ++block) {
      int32_t& page = table.blocks[block];
      if (page < 0 || pattern.is_live(static_cast<int64_t>(block), s.length, table.head_begin)) {
        continue;
      }
      poison(table, page);
      table.free_pages.push_back(page);
      page = -1;
    }
  }
}

int64_t PagedStore::pages_in_use() const {
  int64_t count = 0;
  for (const Sequence& s : sequences_) {
    for (const Table& table : s.tables) {
      for (const int32_t page : table.blocks) count += page >= 0;
    }
  }
  return count;
}

std::span<const model::KvStore::Part> PagedStore::parts(int64_t layer, int64_t sequence) {
  Sequence& s = sequences_[static_cast<size_t>(sequence)];
  parts_.clear();
  for (Table& table : s.tables) {
    if (table.layer != layer) continue;
    const int64_t half = half_page_elements(table);
    parts_.push_back({.head_begin = table.head_begin,
                      .head_count = table.head_count,
                      .kv = {.keys = table.pages.data(),
                             .values = table.pages.data() + half * dtype_size(dtype_),
                             .page_stride = 2 * half,
                             .head_stride = block_size_ * config_.head_dim,
                             .token_stride = config_.head_dim,
                             .block_table = table.blocks.data(),
                             .block_table_size = static_cast<int64_t>(table.blocks.size()),
                             .length = s.length}});
  }
  return parts_;
}

}  // namespace longgen::testing
