#include "longgen/tokenizer/bpe_merges.h"

#include <algorithm>
#include <bit>

namespace longgen::tokenizer {

BpeMerges::BpeMerges(std::vector<Rule> rules) : rules_(std::move(rules)) {
  slots_.resize(std::bit_ceil(2 * rules_.size() + 2));
  for (uint32_t rank = 0; rank < rules_.size(); ++rank) {
    const uint64_t key = key_of(rules_[rank].left, rules_[rank].right);
    Slot& slot = slots_[slot_of(key)];
    if (slot.key == kEmpty) slot = {key, rank};
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
  auto& [heap, next, previous] = scratch;
  heap.clear();
  next.resize(count);
  previous.resize(count);
  const auto later = [](const Scratch::Candidate& a, const Scratch::Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
  };
  const auto propose = [&](int32_t at) {  // the pair that starts at `at`
    if (at < 0 || next[at] == count) return;
    const uint32_t rank = rank_of(symbols[at], symbols[next[at]]);
    if (rank == kNoRule) return;
    heap.push_back({rank, static_cast<uint32_t>(at), symbols[at], symbols[next[at]]});
    std::push_heap(heap.begin(), heap.end(), later);
  };
  for (int32_t i = 0; i < count; ++i) {
    previous[i] = i - 1;
    next[i] = i + 1;
  }
  for (int32_t i = 0; i + 1 < count; ++i) propose(i);
  while (!heap.empty()) {
    const Scratch::Candidate best = heap.front();
    std::pop_heap(heap.begin(), heap.end(), later);
    heap.pop_back();
    const auto at = static_cast<int32_t>(best.position);
    // A merge beside it may have changed the pair since.
    if (symbols[at] != best.left || next[at] == count || symbols[next[at]] != best.right) continue;
    const int32_t gone = next[at];
    symbols[at] = rules_[best.rank].merged;
    symbols[gone] = -1;
    next[at] = next[gone];
    if (next[at] < count) previous[next[at]] = at;
    propose(previous[at]);
    propose(at);
  }
  std::erase(symbols, -1);
}

}  // namespace longgen::tokenizer
