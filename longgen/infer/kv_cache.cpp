#include "longgen/infer/kv_cache.h"

#include <algorithm>

#include "longgen/base/checked.h"
#include "longgen/base/error.h"

namespace longgen::infer {
namespace {

// The pattern as one head sees it.
AttentionPattern for_head(const AttentionPattern& pattern, int64_t head) {
  AttentionPattern single = pattern;
  single.offsets = {pattern.stride > 0 ? pattern.offset(head) : 0};
  return single;
}

// Bytes of one block of one layer for `heads` heads.
int64_t page_bytes(int64_t block_size, int64_t heads, int64_t head_dim, DType dtype) {
  return 2 * block_size * heads * head_dim * dtype_size(dtype);
}

// The most blocks of one sequence of up to max_tokens that later queries still see.
int64_t most_live_blocks(const AttentionPattern& pattern, int64_t max_tokens) {
  const auto live = [&](int64_t tokens) {
    return pattern.live_blocks(ceil_div(tokens, pattern.block_size), tokens, 0);
  };
  // They grow with the length, but at a block's end the block that is begun next is not there yet.
  return std::max(live(max_tokens), live(max_tokens - 1));
}

// Blocks of one group that a cache has room for.
int64_t slots_needed(const KvGroup& group, int64_t max_sequences, int64_t max_tokens,
                     int64_t chunk) {
  const int64_t whole = checked_mul(max_sequences, ceil_div(max_tokens, group.pattern.block_size));
  if (chunk == 0) return whole;
  const int64_t live = checked_mul(max_sequences, most_live_blocks(group.pattern, max_tokens));
  return std::min(whole, live + ceil_div(chunk, group.pattern.block_size));
}

}  // namespace

std::vector<KvGroup> kv_groups(const model::ModelConfig& config) {
  std::vector<KvGroup> groups;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const AttentionPattern& pattern = config.patterns[static_cast<size_t>(layer)];
    for (int64_t head = 0; head < config.num_kv_heads;) {
      int64_t end = head + 1;
      while (end < config.num_kv_heads && pattern.same_for_heads(head, end)) ++end;
      const AttentionPattern single = for_head(pattern, head);
      auto same = std::find_if(groups.begin(), groups.end(), [&](const KvGroup& group) {
        return group.pattern == single && group.head_begin == head &&
               group.head_count == end - head;
      });
      if (same == groups.end()) same = groups.insert(same, {single, head, end - head, {}});
      same->layers.push_back(layer);
      head = end;
    }
  }
  return groups;
}

KvBytes kv_bytes(const model::ModelConfig& config, DType dtype, int64_t tokens) {
  KvBytes bytes;
  for (const KvGroup& group : kv_groups(config)) {
    const int64_t block = group.pattern.block_size;
    const int64_t page = page_bytes(block, group.head_count, config.head_dim, dtype) *
                         static_cast<int64_t>(group.layers.size());
    const int64_t blocks = ceil_div(tokens, block);
    // The next query stands at position `tokens`.
    bytes.live += page * group.pattern.live_blocks(blocks, tokens, 0);
    bytes.all_full += page * blocks;
  }
  return bytes;
}

struct KvCache::Pool {
  Pool(MemoryResource& resource, int64_t slot_size, int64_t count)
      : memory(resource), bytes(checked_mul(slot_size, count)), capacity(count) {
    data = static_cast<std::byte*>(memory.allocate(bytes));
  }
  ~Pool() { memory.deallocate(data, bytes); }

  MemoryResource& memory;
  std::byte* data = nullptr;
  int64_t bytes, capacity, touched = 0;
  std::vector<int32_t> free;  // given back, the latest first
};

struct KvCache::Sequence {
  int64_t length = 0;
  std::vector<std::vector<int32_t>> tables;  // by group: logical block -> slot, -1 when released
  std::vector<int64_t> first_local;          // by group: blocks before this were looked at already
};

KvCache::KvCache(const model::ModelConfig& config, DType dtype, int64_t max_sequences,
                 int64_t max_tokens, MemoryResource& memory, int64_t chunk)
    : dtype_(dtype),
      block_size_(config.patterns.at(0).block_size),
      head_dim_(config.head_dim),
      kv_heads_(config.num_kv_heads),
      num_layers_(config.num_layers),
      max_tokens_(max_tokens),
      groups_(kv_groups(config)),
      layer_groups_(static_cast<size_t>(config.num_layers)) {
  require(max_sequences >= 1 && max_tokens >= 1 && chunk >= 0,
          "a KV cache for {} sequences of {} tokens in chunks of {}", max_sequences, max_tokens,
          chunk);
  const int64_t slots = checked_mul(max_sequences, ceil_div(max_tokens, block_size_));
  require(slots <= INT32_MAX, "a KV cache of {} blocks; use fewer sequences or a shorter context",
          slots);
  for (size_t g = 0; g < groups_.size(); ++g) {
    for (size_t i = 0; i < groups_[g].layers.size(); ++i) {
      layer_groups_[static_cast<size_t>(groups_[g].layers[i])].push_back(
          {g, static_cast<int64_t>(i)});
    }
    pools_.push_back(std::make_unique<Pool>(
        memory, slot_bytes(g), slots_needed(groups_[g], max_sequences, max_tokens, chunk)));
  }
  sequences_.resize(static_cast<size_t>(max_sequences));
}

KvCache::~KvCache() = default;

int64_t KvCache::slot_bytes(size_t group) const {
  return page_bytes(block_size_, groups_[group].head_count, head_dim_, dtype_) *
         static_cast<int64_t>(groups_[group].layers.size());
}

int64_t KvCache::add_sequence() {
  const auto free = std::find(sequences_.begin(), sequences_.end(), nullptr);
  require(free != sequences_.end(), "the KV cache holds {} sequences already", sequences_.size());
  *free = std::make_unique<Sequence>();
  (*free)->tables.resize(groups_.size());
  (*free)->first_local.resize(groups_.size());
  return free - sequences_.begin();
}

KvCache::Sequence& KvCache::get(int64_t sequence) const {
  require(sequence >= 0 && sequence < static_cast<int64_t>(sequences_.size()) &&
              sequences_[static_cast<size_t>(sequence)] != nullptr,
          "the KV cache has no sequence {}", sequence);
  return *sequences_[static_cast<size_t>(sequence)];
}

void KvCache::remove_sequence(int64_t sequence) {
  Sequence& s = get(sequence);
  for (size_t g = 0; g < groups_.size(); ++g) {
    for (size_t block = 0; block < s.tables[g].size(); ++block) {
      give_slot(g, s, static_cast<int64_t>(block));
    }
  }
  sequences_[static_cast<size_t>(sequence)].reset();
}

int64_t KvCache::length(int64_t sequence) const { return get(sequence).length; }

void KvCache::take_slot(size_t group, Sequence& sequence, int64_t block) {
  Pool& pool = *pools_[group];
  int32_t slot = 0;
  if (!pool.free.empty()) {
    slot = pool.free.back();
    pool.free.pop_back();
  } else {
    require(pool.touched < pool.capacity,
            "the KV cache is full: its {} blocks are in use; extend by smaller chunks",
            pool.capacity);
    slot = static_cast<int32_t>(pool.touched++);
  }
  auto& table = sequence.tables[group];
  if (static_cast<int64_t>(table.size()) <= block) table.resize(static_cast<size_t>(block) + 1, -1);
  table[static_cast<size_t>(block)] = slot;
  bytes_in_use_ += slot_bytes(group);
  peak_bytes_in_use_ = std::max(peak_bytes_in_use_, bytes_in_use_);
}

void KvCache::give_slot(size_t group, Sequence& sequence, int64_t block) {
  int32_t& slot = sequence.tables[group][static_cast<size_t>(block)];
  if (slot < 0) return;
  pools_[group]->free.push_back(slot);
  slot = -1;
  bytes_in_use_ -= slot_bytes(group);
}

void KvCache::extend(int64_t sequence, int64_t tokens) {
  Sequence& s = get(sequence);
  require(tokens >= 0 && tokens <= max_tokens_ - s.length,
          "the context is full: {} tokens and {} more, of at most {}", s.length, tokens,
          max_tokens_);
  const int64_t first = ceil_div(s.length, block_size_);
  s.length += tokens;
  for (size_t g = 0; g < groups_.size(); ++g) {
    for (int64_t block = first; block < ceil_div(s.length, block_size_); ++block) {
      take_slot(g, s, block);
    }
  }
}

void KvCache::release_before(int64_t sequence, int64_t position, int64_t keep_back) {
  Sequence& s = get(sequence);
  const int64_t horizon = std::max<int64_t>(position - keep_back, 0);
  for (size_t g = 0; g < groups_.size(); ++g) {
    const AttentionPattern& pattern = groups_[g].pattern;
    if (pattern.is_full()) continue;
    const int64_t window = std::min<int64_t>(horizon / block_size_ - pattern.local_blocks + 1,
                                             static_cast<int64_t>(s.tables[g].size()));
    for (int64_t block = s.first_local[g]; block < window; ++block) {
      if (!pattern.is_live(block, horizon, 0)) give_slot(g, s, block);
    }
    s.first_local[g] = std::max(s.first_local[g], window);
  }
}

// Whether every block before `position` that a query at or after it sees is held.
bool KvCache::holds_all_for(const Sequence& sequence, int64_t position) const {
  for (size_t g = 0; g < groups_.size(); ++g) {
    for (int64_t block = 0; block < ceil_div(position, block_size_); ++block) {
      if (sequence.tables[g][static_cast<size_t>(block)] < 0 &&
          groups_[g].pattern.is_live(block, position, 0)) {
        return false;
      }
    }
  }
  return true;
}

int64_t KvCache::usable_prefix(int64_t sequence, int64_t tokens) const {
  const Sequence& s = get(sequence);
  tokens = std::min(tokens, s.length);
  // Positions within a block see the same blocks, this one included, of which nothing is needed at
  // its start: try the start and the last position of each.
  while (tokens > 0 && !holds_all_for(s, tokens)) {
    tokens -= tokens % block_size_ > 0 ? tokens % block_size_ : 1;
  }
  return tokens;
}

void KvCache::truncate(int64_t sequence, int64_t tokens) {
  Sequence& s = get(sequence);
  require(tokens >= 0 && tokens <= s.length && holds_all_for(s, tokens),
          "a sequence of {} tokens cannot be cut back to {}", s.length, tokens);
  const int64_t blocks = ceil_div(tokens, block_size_);
  for (size_t g = 0; g < groups_.size(); ++g) {
    for (int64_t block = blocks; block < ceil_div(s.length, block_size_); ++block) {
      give_slot(g, s, block);
    }
    s.tables[g].resize(static_cast<size_t>(blocks));
    s.first_local[g] = 0;  // those that became visible again will have to be looked at again
  }
  s.length = tokens;
}

std::span<const model::KvStore::Part> KvCache::parts(int64_t layer, int64_t sequence) {
  const Sequence& s = get(sequence);
  const int64_t element = dtype_size(dtype_);
  parts_.clear();
  for (const auto& [g, place] : layer_groups_.at(static_cast<size_t>(layer))) {
    const KvGroup& group = groups_[g];
    const int64_t half = block_size_ * group.head_count * head_dim_;  // elements of keys in a page
    std::byte* base = pools_[g]->data + place * 2 * half * element;
    Part part{.head_begin = group.head_begin, .head_count = group.head_count, .kv = {}};
    part.kv.keys = base;
    part.kv.values = base + half * element;
    part.kv.page_stride = slot_bytes(g) / element;
    part.kv.head_stride = block_size_ * head_dim_;
    part.kv.token_stride = head_dim_;
    part.kv.block_table = s.tables[g].data();
    part.kv.block_table_size = static_cast<int64_t>(s.tables[g].size());
    part.kv.length = s.length;
    parts_.push_back(part);
  }
  return parts_;
}

int64_t KvCache::bytes_reserved() const {
  int64_t bytes = 0;
  for (size_t g = 0; g < groups_.size(); ++g) bytes += pools_[g]->touched * slot_bytes(g);
  return bytes;
}

int64_t KvCache::bytes_allocated() const {
  int64_t bytes = 0;
  for (const auto& pool : pools_) bytes += pool->bytes;
  return bytes;
}

int64_t KvCache::bytes_needed(const model::ModelConfig& config, DType dtype, int64_t max_sequences,
                              int64_t max_tokens, int64_t chunk) {
  NoMemory nothing;
  return KvCache(config, dtype, max_sequences, max_tokens, nothing, chunk).bytes_allocated();
}

int64_t KvCache::all_full_bytes() const {
  int64_t bytes = 0;
  for (const auto& s : sequences_) {
    if (s != nullptr) {
      bytes += ceil_div(s->length, block_size_) * num_layers_ *
               page_bytes(block_size_, kv_heads_, head_dim_, dtype_);
    }
  }
  return bytes;
}

}  // namespace longgen::infer
