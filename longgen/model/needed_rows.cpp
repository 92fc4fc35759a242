#include "longgen/model/needed_rows.h"

#include <algorithm>

namespace longgen::model {

RowRange NeededRows::of(int64_t begin, int64_t count) const {
  const int64_t end = begin + count;
  const int64_t first = std::clamp(tail, begin, end), last = std::clamp(head, begin, end);
  if (last == begin) return {first - begin, end - first};
  return {0, first < end ? count : last - begin};
}

int64_t NeededRows::count(int64_t n) const {
  return std::min(head, n) + std::max<int64_t>(0, n - std::max(head, tail));
}

std::vector<NeededRows> needed_rows(const ModelConfig& config, int64_t asks_from) {
  std::vector<NeededRows> needed(static_cast<size_t>(config.num_layers) + 1);
  needed.back() = {.head = 0, .tail = std::max<int64_t>(asks_from, 0)};
  for (auto layer = static_cast<size_t>(config.num_layers); layer-- > 0;) {
    const AttentionPattern& p = config.patterns[layer];
    if (p.is_full() || p.stride > 0) break;  // it and all below it: every row
    const NeededRows& outputs = needed[layer + 1];
    const int64_t oldest = outputs.tail / p.block_size - p.local_blocks + 1;
    if (oldest <= p.sink_blocks) break;
    needed[layer] = {.head = std::max(outputs.head, p.sink_blocks * p.block_size),
                     .tail = oldest * p.block_size};
    if (needed[layer].head >= needed[layer].tail) needed[layer] = {};
  }
  return needed;
}

bool needs_no_more_rows(const ModelConfig& config, int64_t before, int64_t now) {
  if (now >= before) return true;
  const auto had = needed_rows(config, before), needs = needed_rows(config, now);
  for (size_t layer = 0; layer < static_cast<size_t>(config.num_layers); ++layer) {
    if (needs[layer].tail < had[layer].tail) return false;
  }
  return true;
}

}  // namespace longgen::model
