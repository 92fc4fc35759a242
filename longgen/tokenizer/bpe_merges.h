// The merge rules of byte-pair encoding and their application to one word.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
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

  // A symbol of the word, linked to its neighbours.
  struct Place {
    int32_t symbol, previous, next;
    uint32_t rank;  // of the pair that starts here now
  };
  struct Scratch {
    std::vector<Place> places;
    std::vector<uint64_t> heap;  // rank of a pair, then its place
    // Long words: the places of every rank as linked lists. Between words all of them are empty.
    struct Entry {
      uint32_t place, next;
    };
    std::vector<Entry> entries;
    std::vector<uint32_t> heads;   // by rank: the first entry
    std::vector<uint64_t> filled;  // a bit a rank: there is one
    std::vector<uint32_t> here;    // the places of the rank in hand
  };

  // Merges neighbours in `symbols` until no rule applies: always the rule of lowest rank, the
  // leftmost place first. O(n log n).
  void apply(std::vector<int32_t>& symbols, Scratch& scratch) const;

 private:
  class ByHeap;
  class ByRank;

  struct Slot {
    uint64_t key = kEmpty;
    uint32_t rank = 0;
  };
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  static constexpr uint32_t kNoRule = ~uint32_t{0};
  // Symbols from which on going through all ranks is faster than a heap.
  static constexpr size_t kLongWord = 4096;
  // Symbols below which a word is not worth cutting.
  static constexpr size_t kShortWord = 32;
  static constexpr size_t kJoints = size_t{1} << 20;

  static uint64_t key_of(int32_t left, int32_t right) {
    return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) |
           static_cast<uint32_t>(right);
  }
  size_t slot_of(uint64_t key) const;
  static size_t joint_of(int32_t left, int32_t right) {
    return key_of(left, right) * 0x9E3779B97F4A7C15u >> 44;
  }
  bool ranks_grow() const;
  bool note_joints();
  bool may_join(int32_t left, int32_t right) const;
  // Merges `symbols` into `out`, which may be their own place. How many there are then.
  size_t merge_part(std::span<const int32_t> symbols, int32_t* out, Scratch& scratch) const;
  // Of the pair at `at`, kNoRule where there is none; noted there.
  uint32_t find_rank(std::vector<Place>& places, int32_t at) const;
  void merge(std::vector<Place>& places, int32_t at, uint32_t rank) const;
  // kNoRule where there is none.
  uint32_t rank_of(int32_t left, int32_t right) const;

  std::vector<Rule> rules_;
  std::vector<Slot> slots_;  // open addressing; a power of two, at most half full
  // Rules that take a token come behind all that make it, as training writes them.
  bool ranks_grow_ = false;
  // Where no rule joins two symbols, nor what can be made of them, a word falls apart. A bit a hash
  // of such a pair, set for those that may be joined.
  bool cuts_ = false;
  std::vector<uint64_t> joints_ = std::vector<uint64_t>(kJoints / 64);
};

}  // namespace longgen::tokenizer
