#include "longgen/tokenizer/word_cache.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>

namespace longgen::tokenizer {
namespace {

constexpr size_t kFirstSlots = size_t{1} << 10;
constexpr size_t kMaxSlots = size_t{1} << 17;
constexpr size_t kMaxWordBytes = 64;

}  // namespace

WordCache::WordCache() : entries_(kFirstSlots) {}

void WordCache::clear() {
  std::fill(entries_.begin(), entries_.end(), Entry{});
  words_.clear();
  ids_.clear();
  used_ = 0;
}

void WordCache::grow() {
  std::vector<Entry> old(2 * entries_.size());
  old.swap(entries_);
  const size_t mask = entries_.size() - 1;
  for (const Entry& entry : old) {
    if (entry.word_length == 0) continue;
    size_t slot = entry.hash & mask;
    while (entries_[slot].word_length != 0) slot = (slot + 1) & mask;
    entries_[slot] = entry;
  }
}

size_t WordCache::slot_of(uint64_t hash, std::string_view word) const {
  const size_t mask = entries_.size() - 1;
  for (size_t slot = hash & mask;; slot = (slot + 1) & mask) {
    const Entry& entry = entries_[slot];
    if (entry.word_length == 0) return slot;
    if (entry.hash == hash &&
        word == std::string_view(words_).substr(entry.word_begin, entry.word_length)) {
      return slot;
    }
  }
}

bool WordCache::append(std::string_view word, std::vector<int32_t>& ids) const {
  if (word.empty() || word.size() > kMaxWordBytes) return false;
  const Entry& entry = entries_[slot_of(XXH3_64bits(word.data(), word.size()), word)];
  if (entry.word_length == 0) return false;
  const int32_t* known = ids_.data() + entry.ids_begin;
  ids.insert(ids.end(), known, known + entry.ids_count);
  return true;
}

void WordCache::insert(std::string_view word, std::span<const int32_t> ids) {
  if (word.empty() || word.size() > kMaxWordBytes) return;
  if (2 * used_ == entries_.size()) {
    if (entries_.size() < kMaxSlots) {
      grow();
    } else {
      clear();
    }
  }
  const uint64_t hash = XXH3_64bits(word.data(), word.size());
  // A word of at most 64 bytes has at most 64 ids (SentencePiece: 65), so all sizes fit.
  entries_[slot_of(hash, word)] = {
      hash, static_cast<uint32_t>(words_.size()), static_cast<uint32_t>(ids_.size()),
      static_cast<uint16_t>(word.size()), static_cast<uint16_t>(ids.size())};
  words_ += word;
  ids_.insert(ids_.end(), ids.begin(), ids.end());
  ++used_;
}

}  // namespace longgen::tokenizer
