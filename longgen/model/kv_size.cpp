#include "longgen/model/kv_size.h"

#include <fmt/format.h>

#include <algorithm>

#include "longgen/base/checked.h"

namespace longgen::model {

std::string KvLayerRange::name() const {
  return first == last ? fmt::format("{}", first) : fmt::format("{}-{}", first, last);
}

namespace {

KvLayerRange measure(const ModelConfig& config, const AttentionPattern& pattern, int64_t context,
                     int64_t bytes_per_head_token) {
  KvLayerRange range;
  range.pattern = pattern;
  range.kept_min = context;
  for (int64_t head = 0; head < config.num_kv_heads; ++head) {
    const int64_t kept = pattern.tokens_kept(context, head);
    range.kept_min = std::min(range.kept_min, kept);
    range.kept_max = std::max(range.kept_max, kept);
    range.layer_bytes = checked_add(range.layer_bytes, checked_mul(kept, bytes_per_head_token));
  }
  return range;
}

}  // namespace

KvSize kv_size(const ModelConfig& config, int64_t context, DType dtype) {
  require(context >= 0, "a context of {} tokens", context);
  const int64_t per_head_token = 2 * config.head_dim * dtype_size(dtype);  // key and value
  KvSize size;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const AttentionPattern& pattern = config.patterns[static_cast<size_t>(layer)];
    if (size.ranges.empty() || !(size.ranges.back().pattern == pattern)) {
      size.ranges.push_back(measure(config, pattern, context, per_head_token));
      size.ranges.back().first = layer;
    }
    size.ranges.back().last = layer;
    size.bytes = checked_add(size.bytes, size.ranges.back().layer_bytes);
  }
  const int64_t full_layer = checked_mul(checked_mul(context, per_head_token), config.num_kv_heads);
  size.all_full_bytes = checked_mul(full_layer, config.num_layers);
  return size;
}

}  // namespace longgen::model
