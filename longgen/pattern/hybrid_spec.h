// Which layers keep full attention, and what the others see; from text such as
//     full=middle:12 sparse=local:32,sink:1
// full=  middle:K | top:K | bottom:K | interleaved:K | a list such as 10-21 or 0,5,10-12.
//        K is an integer or a fraction of the layers (1/3 or 0.33, rounded half up). Middle starts
//        at floor((L - K) / 2). top = the last K layers, bottom = the first K; interleaved spreads
//        K layers evenly (layer floor((2 i + 1) L / (2 K)) for i in 0..K-1).
// sparse= sink-window (local:32,sink:1) | strided (local:16,sink:1,stride:64) | a list of
//        local:N, sink:N, stride:N, block:N, offset:N or offset:heads (head h gets
//        floor(h * stride / kv_heads)).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "longgen/pattern/pattern.h"

namespace longgen {

struct HybridSpec {
  enum class Placement { kMiddle, kTop, kBottom, kInterleaved, kList };

  Placement placement = Placement::kMiddle;
  // The number of full layers is numerator, or numerator / denominator of the layers when
  // is_fraction, rounded half up.
  int64_t numerator = 0, denominator = 1;
  bool is_fraction = false;
  std::vector<int64_t> full_list;  // kList: sorted, unique
  AttentionPattern sparse;         // offsets are resolved by resolve()
  bool offset_per_head = false;

  // Throws UsageError that names the word and lists what is allowed.
  static HybridSpec parse(std::string_view text);

  // One pattern per layer. Full layers get the sparse pattern's block size. Throws UsageError when
  // the counts do not fit the model.
  std::vector<AttentionPattern> resolve(int64_t num_layers, int64_t num_kv_heads) const;
};

}  // namespace longgen
