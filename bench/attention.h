// Attention alone: one layer's operation over one document.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "bench/measurement.h"
#include "longgen/backend/backend.h"

namespace longgen::bench {

// kDecode: one query behind `length` - 1 keys that lie in pages, a sequence of the batch each.
enum class Direction : uint8_t { kForward, kBackward, kDecode };
std::string direction_name(Direction direction);

// "full", "sink-window", "strided", "local:32,sink:1,block:64", or a whole hybrid text, of which
// the sparse pattern counts. Throws UsageError.
AttentionPattern parse_pattern(const std::string& text, int64_t kv_heads);

struct AttentionCase {
  int64_t q_heads = 9, kv_heads = 3, head_dim = 64, length = 8192;
  int64_t batch = 1;  // kDecode
  AttentionPattern pattern;
  Direction direction = Direction::kForward;
  DType dtype = DType::kBF16;
  uint64_t seed = 0;
};

// Throws UsageError; measure_attention() does too.
void check_heads(int64_t q_heads, int64_t kv_heads);

// FLOPs: 4 head_dim a pair and query head forward, 10 backward. Bytes: keys and values of the live
// blocks, for kDecode.
Measurement measure_attention(const AttentionCase& c, Backend& backend, const Repeats& repeats);

// The same of several cases in turns (measure_in_turns), forward or backward, all of them in memory
// at once; `round_seconds` among a row's parameters are the rounds in their order. Throws
// UsageError for kDecode.
std::vector<Measurement> measure_attention_in_turns(std::span<const AttentionCase> cases,
                                                    Backend& backend, const Repeats& repeats);

}  // namespace longgen::bench
