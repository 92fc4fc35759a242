// The ids of words seen before.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace longgen::tokenizer {

// A hash table from word to ids, of bounded size: it starts afresh when full. Not for several
// threads.
class WordCache {
 public:
  WordCache();

  // Appends the word's ids; false when it is not there.
  bool append(std::string_view word, std::vector<int32_t>& ids) const;
  // The word must not be there yet. Long words are not kept.
  void insert(std::string_view word, std::span<const int32_t> ids);

 private:
  struct Entry {
    uint64_t hash = 0;
    uint32_t word_begin = 0, ids_begin = 0;
    uint16_t word_length = 0, ids_count = 0;  // word_length 0: free
  };
  void clear();
  void grow();
  size_t slot_of(uint64_t hash, std::string_view word) const;

  std::vector<Entry> entries_;  // a power of two, at most half full
  std::string words_;
  std::vector<int32_t> ids_;
  size_t used_ = 0;
};

}  // namespace longgen::tokenizer
