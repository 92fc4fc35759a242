#include "longgen/tokenizer/bpe_merges.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <unordered_map>

namespace longgen::tokenizer {

BpeMerges::BpeMerges(std::vector<Rule> rules) : rules_(std::move(rules)) {
  slots_.resize(std::bit_ceil(2 * rules_.size() + 2));
  for (uint32_t rank = 0; rank < rules_.size(); ++rank) {
    const uint64_t key = key_of(rules_[rank].left, rules_[rank].right);
    Slot& slot = slots_[slot_of(key)];
    slot = {key, rank};
  }
  ranks_grow_ = ranks_grow();
  cuts_ = note_joints();
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

bool BpeMerges::ranks_grow() const {
  std::unordered_map<int32_t, uint32_t> made;  // the last rule that makes a token
  for (uint32_t rank = 0; rank < rules_.size(); ++rank) made[rules_[rank].merged] = rank;
  for (uint32_t rank = 0; rank < rules_.size(); ++rank) {
    for (const int32_t part : {rules_[rank].left, rules_[rank].right}) {
      const auto maker = made.find(part);
      if (maker != made.end() && maker->second >= rank) return false;
    }
  }
  return true;
}

// The pair at `at` becomes one symbol; the place behind it is none any more.
void BpeMerges::merge(std::vector<Place>& places, int32_t at, uint32_t rank) const {
  Place& place = places[at];
  Place& gone = places[place.next];
  place.symbol = rules_[rank].merged;
  place.next = gone.next;
  gone.rank = kNoRule;
  if (static_cast<size_t>(place.next) < places.size()) places[place.next].previous = at;
}

// The pairs in a heap, the lowest rank and then the leftmost place on top.
class BpeMerges::ByHeap {
 public:
  ByHeap(const BpeMerges& merges, Scratch& scratch)
      : merges_(merges), places_(scratch.places), heap_(scratch.heap) {
    heap_.clear();
  }

  void propose(int32_t at) {
    if (merges_.find_rank(places_, at) == kNoRule) return;
    heap_.push_back(static_cast<uint64_t>(places_[at].rank) << 32 | static_cast<uint32_t>(at));
  }

  void run() {
    std::make_heap(heap_.begin(), heap_.end(), std::greater<>());
    while (!heap_.empty()) {
      const auto rank = static_cast<uint32_t>(heap_.front() >> 32);
      const auto at = static_cast<int32_t>(heap_.front());
      std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
      heap_.pop_back();
      if (places_[at].rank != rank) continue;  // a merge beside it has changed the pair since
      merges_.merge(places_, at, rank);
      push(places_[at].previous);
      push(at);
    }
  }

 private:
  void push(int32_t at) {
    const size_t before = heap_.size();
    if (at >= 0) propose(at);
    if (heap_.size() > before) std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
  }

  const BpeMerges& merges_;
  std::vector<Place>& places_;
  std::vector<uint64_t>& heap_;
};

// Rank by rank, each from left to right: where ranks grow, no merge makes a pair of a rank that was
// passed. A long word is swept in order instead of being jumped through.
class BpeMerges::ByRank {
 public:
  ByRank(const BpeMerges& merges, Scratch& scratch)
      : merges_(merges), places_(scratch.places), scratch_(scratch) {
    scratch_.entries.clear();
    if (scratch_.heads.size() == merges.rules_.size()) return;
    scratch_.heads.assign(merges.rules_.size(), kNone);
    scratch_.filled.assign(merges.rules_.size() / 64 + 1, 0);
  }

  void propose(int32_t at) {
    const uint32_t rank = merges_.find_rank(places_, at);
    if (rank == kNoRule) return;
    scratch_.entries.push_back({static_cast<uint32_t>(at), scratch_.heads[rank]});
    scratch_.heads[rank] = static_cast<uint32_t>(scratch_.entries.size() - 1);
    scratch_.filled[rank / 64] |= uint64_t{1} << rank % 64;
  }

  void run() {
    for (size_t word = 0; word < scratch_.filled.size(); ++word) {
      while (scratch_.filled[word] != 0) {
        const auto bit = static_cast<uint32_t>(std::countr_zero(scratch_.filled[word]));
        scratch_.filled[word] &= scratch_.filled[word] - 1;
        merge_all(static_cast<uint32_t>(64 * word) + bit);
      }
    }
  }

 private:
  static constexpr uint32_t kNone = ~uint32_t{0};
  static constexpr size_t kAhead = 8;

  void merge_all(uint32_t rank) {
    std::vector<uint32_t>& here = scratch_.here;
    here.clear();
    for (uint32_t e = scratch_.heads[rank]; e != kNone; e = scratch_.entries[e].next) {
      here.push_back(scratch_.entries[e].place);
    }
    scratch_.heads[rank] = kNone;
    if (!std::is_sorted(here.begin(), here.end())) std::sort(here.begin(), here.end());
    for (size_t i = 0; i < here.size(); ++i) {
      const auto at = static_cast<int32_t>(here[i]);
      // The places of a rank lie apart, but which are next is known.
      if (i + kAhead < here.size()) __builtin_prefetch(&places_[here[i + kAhead]]);
      if (places_[at].rank != rank) continue;  // a merge beside it has changed the pair since
      merges_.merge(places_, at, rank);
      if (places_[at].previous >= 0) propose(places_[at].previous);
      propose(at);
    }
  }

  const BpeMerges& merges_;
  std::vector<Place>& places_;
  Scratch& scratch_;
};

uint32_t BpeMerges::find_rank(std::vector<Place>& places, int32_t at) const {
  Place& place = places[at];
  const bool last = static_cast<size_t>(place.next) == places.size();
  place.rank = last ? kNoRule : rank_of(place.symbol, places[place.next].symbol);
  return place.rank;
}

namespace {

// The first or the last of the symbols that tokens are made of in the end.
class Ends {
 public:
  Ends(const std::vector<BpeMerges::Rule>& rules, int32_t BpeMerges::Rule::*side)
      : rules_(rules), side_(side) {
    for (uint32_t rank = 0; rank < rules.size(); ++rank) maker_.emplace(rules[rank].merged, rank);
  }

  // kNone where a token is made of itself.
  int32_t of(int32_t token) {
    path_.clear();
    for (auto maker = maker_.find(token); maker != maker_.end(); maker = maker_.find(token)) {
      if (const auto known = known_.find(token); known != known_.end()) {
        token = known->second;
        break;
      }
      if (path_.size() == rules_.size()) return kNone;
      path_.push_back(token);
      token = rules_[maker->second].*side_;
    }
    for (const int32_t passed : path_) known_[passed] = token;
    return token;
  }

  static constexpr int32_t kNone = -1;

 private:
  const std::vector<BpeMerges::Rule>& rules_;
  int32_t BpeMerges::Rule::*side_;
  std::unordered_map<int32_t, uint32_t> maker_;
  std::unordered_map<int32_t, int32_t> known_;
  std::vector<int32_t> path_;
};

}  // namespace

// Notes what symbols rules can join. False where that cannot be said: a token that is made in two
// ways of different characters, or of itself, which no training does.
bool BpeMerges::note_joints() {
  Ends first(rules_, &Rule::left), last(rules_, &Rule::right);
  for (const Rule& rule : rules_) {
    const int32_t begin = first.of(rule.left), end = last.of(rule.right);
    const int32_t before = last.of(rule.left), after = first.of(rule.right);
    if (std::min({begin, end, before, after}) == Ends::kNone) return false;
    if (begin != first.of(rule.merged) || end != last.of(rule.merged)) return false;
    const size_t bit = joint_of(before, after);
    joints_[bit / 64] |= uint64_t{1} << bit % 64;
  }
  return true;
}

bool BpeMerges::may_join(int32_t left, int32_t right) const {
  const size_t bit = joint_of(left, right);
  return (joints_[bit / 64] >> bit % 64 & 1) != 0;
}

void BpeMerges::apply(std::vector<int32_t>& symbols, Scratch& scratch) const {
  if (!cuts_ || symbols.size() < kShortWord) {
    symbols.resize(merge_part(symbols, symbols.data(), scratch));
    return;
  }
  size_t begin = 0;
  int32_t* out = symbols.data();
  for (size_t i = 1; i <= symbols.size(); ++i) {
    if (i < symbols.size() && may_join(symbols[i - 1], symbols[i])) continue;
    out += merge_part({symbols.data() + begin, i - begin}, out, scratch);
    begin = i;
  }
  symbols.resize(static_cast<size_t>(out - symbols.data()));
}

size_t BpeMerges::merge_part(std::span<const int32_t> symbols, int32_t* out,
                             Scratch& scratch) const {
  const auto count = static_cast<int32_t>(symbols.size());
  if (count < 2) {
    if (count == 1) *out = symbols[0];
    return symbols.size();
  }
  scratch.places.resize(count);
  for (int32_t i = 0; i < count; ++i) scratch.places[i] = {symbols[i], i - 1, i + 1, kNoRule};
  const auto run = [&](auto&& way) {
    for (int32_t i = count - 1; i >= 0; --i) way.propose(i);
    way.run();
  };
  if (ranks_grow_ && symbols.size() >= kLongWord) {
    run(ByRank(*this, scratch));
  } else {
    run(ByHeap(*this, scratch));
  }
  size_t merged = 0;
  for (int32_t at = 0; at < count; at = scratch.places[at].next)
    out[merged++] = scratch.places[at].symbol;
  return merged;
}

}  // namespace longgen::tokenizer
