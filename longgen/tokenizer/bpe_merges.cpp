#include "longgen/tokenizer/bpe_merges.h"

#include <algorithm>
#include <bit>
#include <functional>

namespace longgen::tokenizer {

BpeMerges::BpeMerges(std::vector<Rule> rules) : rules_(std::move(rules)) {
  slots_.resize(std::bit_ceil(2 * rules_.size() + 2));
  for (uint32_t rank = 0; rank < rules_.size(); ++rank) {
    const uint64_t key = key_of(rules_[rank].left, rules_[rank].right);
    Slot& slot = slots_[slot_of(key)];
    slot = {key, rank};
  }
}

size_t BpeMerges::slot_of(uint64_t key) const {
  const size_t mask = slots_.size() - 1;
  // Multiplication by 2^64 / golden ratio spreads consecutive ids; the high bits are the good ones.
  size_t slot = (key * 0x9E3779B97F4A7C15u) >> 32 & mask;
  while (slots_[slot].key != kEmpty && slots_[slot].key != key) slot = (slot + 1) & mask;
  return slot;
}

uint32_t BpeMerges::rank_of(int32_t left, int32_t right) const {
  const Slot& slot = slots_[slot_of(key_of(left, right))];
  return slot.key == kEmpty ? kNoRule : slot.rank;
}

void BpeMerges::apply(std::vector<int32_t>& symbols, Scratch& scratch) const {
  const auto count = static_cast<int32_t>(symbols.size());
  if (count < 2) return;
  // Not a structured binding: clang before 16 does not capture those in a lambda.
  std::vector<uint64_t>& heap = scratch.heap;
  std::vector<uint32_t>& ranks = scratch.ranks;
  std::vector<int32_t>&next = scratch.next, &previous = scratch.previous;
  heap.clear();
  ranks.resize(count);
  next.resize(count);
  previous.resize(count);
  // The lowest rank, then the leftmost place, on top.
  const auto entry = [&](int32_t at) {
    return static_cast<uint64_t>(ranks[at]) << 32 | static_cast<uint32_t>(at);
  };
  const auto rank_at = [&](int32_t at) {
    return next[at] == count ? kNoRule : rank_of(symbols[at], symbols[next[at]]);
  };
  for (int32_t i = 0; i < count; ++i) {
    previous[i] = i - 1;
    next[i] = i + 1;
    ranks[i] = rank_at(i);
    if (ranks[i] != kNoRule) heap.push_back(entry(i));
  }
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  const auto propose = [&](int32_t at) {  // the pair that starts at `at`
    if (at < 0) return;
    ranks[at] = rank_at(at);
    if (ranks[at] == kNoRule) return;
    heap.push_back(entry(at));
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  while (!heap.empty()) {
    const auto rank = static_cast<uint32_t>(heap.front() >> 32);
    const auto at = static_cast<int32_t>(heap.front());
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    heap.pop_back();
    if (ranks[at] != rank) continue;  // a merge beside it has changed the pair since
    const int32_t gone = next[at];
    symbols[at] = rules_[rank].merged;
    symbols[gone] = -1;
    ranks[gone] = kNoRule;
    next[at] = next[gone];
    if (next[at] < count) previous[next[at]] = at;
    propose(previous[at]);
    propose(at);
  }
  std::erase(symbols, -1);
}

}  // namespace longgen::tokenizer
