// How much memory the keys and values of one sequence take, layer by layer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "longgen/model/config.h"
#include "longgen/tensor/dtype.h"

namespace longgen::model {

// Consecutive layers with the same pattern.
struct KvLayerRange {
  int64_t first = 0, last = 0;  // inclusive
  AttentionPattern pattern;
  int64_t kept_min = 0,
          kept_max = 0;     // tokens kept, over the KV heads (strided patterns may differ)
  int64_t layer_bytes = 0;  // keys and values of one of these layers, all heads

  std::string name() const;  // "10-21", or "3" for a single one
  int64_t layers() const { return last - first + 1; }
  int64_t bytes() const { return layer_bytes * layers(); }
};

struct KvSize {
  std::vector<KvLayerRange> ranges;
  int64_t bytes = 0;           // all layers
  int64_t all_full_bytes = 0;  // the same model with full attention in every layer
};

// After `context` tokens, with keys and values of `dtype`. Kept tokens are those of the blocks that
// the last query sees (AttentionPattern::tokens_kept).
KvSize kv_size(const ModelConfig& config, int64_t context, DType dtype);

}  // namespace longgen::model
