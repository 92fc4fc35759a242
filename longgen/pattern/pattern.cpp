#include "longgen/pattern/pattern.h"

#include <fmt/format.h>

#include <algorithm>

#include "longgen/base/error.h"

namespace longgen {
namespace {

// Sum of floor(v / s) for v in [0, x]; x >= -1.
int64_t sum_of_quotients(int64_t x, int64_t s) {
  const int64_t q = (x + 1) / s, rest = (x + 1) % s;
  return s * (q * (q - 1) / 2) + q * rest;
}

int64_t triangle(int64_t n) { return n * (n + 1) / 2; }

// Sum of min(m, cap) for m in [1, n].
int64_t sum_capped(int64_t n, int64_t cap) {
  return n <= cap ? triangle(n) : triangle(cap) + (n - cap) * cap;
}

// Strided blocks among [0, x).
int64_t strided_below(const AttentionPattern& p, int64_t x, int64_t offset) {
  return p.stride == 0 ? 0 : (x + offset) / p.stride - offset / p.stride;
}

// Sum of strided_below(m) for m in [1, n].
int64_t sum_strided_below(const AttentionPattern& p, int64_t n, int64_t offset) {
  if (p.stride == 0) return 0;
  return sum_of_quotients(n + offset, p.stride) - sum_of_quotients(offset, p.stride) -
         n * (offset / p.stride);
}

// Sinks and strided blocks among the first m blocks.
int64_t lasting_below(const AttentionPattern& p, int64_t m, int64_t offset) {
  const int64_t sinks = std::min(p.sink_blocks, m);
  return sinks + strided_below(p, m, offset) - strided_below(p, sinks, offset);
}

// Sum over query blocks i in [0, n) of the key blocks j < i that i sees.
int64_t sum_earlier_blocks(const AttentionPattern& p, int64_t n, int64_t offset) {
  const int64_t local = std::min(p.local_blocks, n + 1);
  // j within the window: min(i, local - 1); i = 0 adds nothing.
  int64_t sum = n > 0 ? sum_capped(n - 1, local - 1) : 0;
  // j before the window: the first m = i - local + 1 blocks, m from 1 to n - local.
  const int64_t last = n - local;
  if (last > 0) {
    const int64_t within = std::min(last, p.sink_blocks);
    sum += sum_capped(last, p.sink_blocks) + sum_strided_below(p, last, offset) -
           sum_strided_below(p, within, offset) -
           (last - within) * strided_below(p, p.sink_blocks, offset);
  }
  return sum;
}

int64_t earlier_blocks(const AttentionPattern& p, int64_t i, int64_t offset) {
  const int64_t local = std::min(p.local_blocks, i + 1);
  return (local - 1) + lasting_below(p, i - local + 1, offset);
}

// Pairs of the first n queries.
int64_t pairs_before(const AttentionPattern& p, int64_t n, int64_t offset) {
  const int64_t b = p.block_size, blocks = n / b, rest = n % b;
  return sum_earlier_blocks(p, blocks, offset) * b * b + blocks * triangle(b) +
         rest * earlier_blocks(p, blocks, offset) * b + triangle(rest);
}

}  // namespace

void AttentionPattern::validate(int64_t num_kv_heads) const {
  require(block_size == 16 || block_size == 32 || block_size == 64 || block_size == 128,
          "attention pattern: block size {}; use 16, 32, 64 or 128", block_size);
  require(local_blocks >= 1,
          "attention pattern: local is {}; the diagonal block counts, so use 1 or more",
          local_blocks);
  require(sink_blocks >= 0, "attention pattern: sink is {}; use 0 or more", sink_blocks);
  require(stride >= 0, "attention pattern: stride is {}; use 0 (none) or more", stride);
  constexpr int64_t kMost = int64_t{1} << 40;  // keeps every sum of this file inside 64 bits
  require(sink_blocks < kMost && stride < kMost && (is_full() || local_blocks < kMost),
          "attention pattern: sink, local and stride must stay below 2^40 blocks");
  const auto heads = static_cast<int64_t>(offsets.size());
  require(heads == 1 || heads == num_kv_heads,
          "attention pattern: {} offsets for {} KV heads; give one, or one a head", heads,
          num_kv_heads);
  for (const int64_t o : offsets) {
    require(o >= 0 && o < std::max<int64_t>(stride, 1),
            "attention pattern: offset {} is outside [0, stride {})", o, stride);
  }
}

bool AttentionPattern::sees_block(int64_t query_block, int64_t key_block, int64_t kv_head) const {
  if (key_block < 0 || key_block > query_block) return false;
  if (query_block - key_block < local_blocks || key_block < sink_blocks) return true;
  return stride > 0 && (key_block + 1 + offset(kv_head)) % stride == 0;
}

bool AttentionPattern::sees(int64_t query_position, int64_t key_position, int64_t kv_head) const {
  return key_position <= query_position &&
         sees_block(query_position / block_size, key_position / block_size, kv_head);
}

std::vector<BlockRange> AttentionPattern::key_blocks(int64_t query_begin, int64_t query_end,
                                                     int64_t kv_head) const {
  if (query_begin >= query_end) return {};
  const int64_t sinks = std::min(sink_blocks, query_end);
  const int64_t window = is_full() ? 0 : std::max<int64_t>(query_begin - local_blocks + 1, 0);
  if (window <= sinks) return {{0, query_end, 1}};
  std::vector<BlockRange> ranges;
  if (sinks > 0) ranges.push_back({0, sinks, 1});
  if (stride > 0) {
    const int64_t phase = (sinks + 1 + offset(kv_head)) % stride;
    const int64_t first = phase == 0 ? sinks : sinks + stride - phase;
    if (first < window) ranges.push_back({first, window, stride});
  }
  ranges.push_back({window, query_end, 1});
  return ranges;
}

BlockRange AttentionPattern::query_blocks_of(int64_t key_block, int64_t query_begin,
                                             int64_t query_end, int64_t kv_head) const {
  const int64_t begin = std::max(key_block, query_begin);
  const bool lasting = is_full() || key_block < sink_blocks ||
                       (stride > 0 && (key_block + 1 + offset(kv_head)) % stride == 0);
  const int64_t end = lasting ? query_end : std::min(query_end, key_block + local_blocks);
  return {begin, std::max(begin, end), 1};
}

bool AttentionPattern::is_live(int64_t key_block, int64_t position, int64_t kv_head) const {
  const int64_t query_block = position / block_size;
  return key_block > query_block || sees_block(query_block, key_block, kv_head);
}

int64_t AttentionPattern::live_blocks(int64_t num_blocks, int64_t position, int64_t kv_head) const {
  const int64_t query_block = position / block_size;
  const int64_t window = is_full() ? 0 : std::max<int64_t>(query_block - local_blocks + 1, 0);
  const int64_t before = std::min(window, num_blocks);
  return lasting_below(*this, before, offset(kv_head)) + num_blocks - before;
}

int64_t AttentionPattern::tokens_kept(int64_t length, int64_t kv_head) const {
  if (length <= 0) return 0;
  const int64_t block = (length - 1) / block_size;
  return earlier_blocks(*this, block, offset(kv_head)) * block_size + length - block * block_size;
}

int64_t AttentionPattern::pairs(int64_t begin, int64_t end, int64_t kv_head) const {
  if (begin >= end) return 0;
  return pairs_before(*this, end, offset(kv_head)) - pairs_before(*this, begin, offset(kv_head));
}

std::vector<BlockRange> AttentionPattern::remote_blocks(int64_t begin, int64_t end,
                                                        int64_t kv_head) const {
  require(begin % block_size == 0, "shard starts at {}, inside a block of {}", begin, block_size);
  const int64_t first = begin / block_size;
  std::vector<BlockRange> ranges;
  for (BlockRange range : key_blocks(first, (end + block_size - 1) / block_size, kv_head)) {
    range.end = std::min(range.end, first);
    if (range.count() > 0) ranges.push_back(range);
  }
  return ranges;
}

std::string AttentionPattern::to_string() const {
  if (is_full()) return "full";
  std::string text = fmt::format("local:{}", local_blocks);
  if (sink_blocks > 0) text += fmt::format(",sink:{}", sink_blocks);
  if (stride > 0) text += fmt::format(",stride:{}", stride);
  if (block_size != 64) text += fmt::format(",block:{}", block_size);
  if (offsets.size() > 1) {
    text += fmt::format(",offset:{}", fmt::join(offsets, "/"));
  } else if (offsets[0] != 0) {
    text += fmt::format(",offset:{}", offsets[0]);
  }
  return text;
}

}  // namespace longgen
