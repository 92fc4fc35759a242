// The merge rules of byte-pair encoding and their application to one word.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace longgen::tokenizer {

class BpeMerges {
 public:
  struct Rule {
    int32_t left, right, merged;
  };

  // Rules in order of rank: the first is applied first. A pair that comes twice has its last
  // rank, as in the `tokenizers` library.
  explicit BpeMerges(std::vector<Rule> rules);

  const std::vector<Rule>& rules() const { return rules_; }

  struct Scratch {
    std::vector<uint64_t> heap;   // rank of a pair, then its place
    std::vector<uint32_t> ranks;  // by place: of the pair that starts there now
    std::vector<int32_t> next, previous;
  };

  // Merges neighbours in `symbols` until no rule applies: always the rule of lowest rank, the
  // leftmost place first. O(n log n).
  void apply(std::vector<int32_t>& symbols, Scratch& scratch) const;

 private:
  struct Slot {
    uint64_t key = kEmpty;
    uint32_t rank = 0;
  };
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  static constexpr uint32_t kNoRule = ~uint32_t{0};

  static uint64_t key_of(int32_t left, int32_t right) {
    return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) |
           static_cast<uint32_t>(right);
  }
  size_t slot_of(uint64_t key) const;
  // kNoRule where there is none.
  uint32_t rank_of(int32_t left, int32_t right) const;

  std::vector<Rule> rules_;
  std::vector<Slot> slots_;  // open addressing; a power of two, at most half full
};

}  // namespace longgen::tokenizer
