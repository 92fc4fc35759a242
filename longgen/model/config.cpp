#include "longgen/model/config.h"

#include <algorithm>
#include <cmath>
#include <string_view>

#include "longgen/base/checked.h"
#include "longgen/base/error.h"
#include "longgen/model/weights.h"

namespace longgen::model {
namespace {

void check_count(std::string_view field, int64_t value, int64_t low, int64_t high) {
  require(value >= low && value <= high, "model config: {} is {}, but it must be {} to {}", field,
          value, low, high);
}

void check_number(std::string_view field, double value, double above) {
  require(std::isfinite(value) && value > above,
          "model config: {} is {}, but it must be finite and above {}", field, value, above);
}

void check_dimensions(const ModelConfig& c) {
  constexpr int64_t kLargest = int64_t{1} << 31;
  check_count("vocab_size", c.vocab_size, 1, kLargest - 1);  // ids are i32
  check_count("hidden_size", c.hidden_size, 1, kLargest);
  check_count("intermediate_size", c.intermediate_size, 1, kLargest);
  check_count("num_hidden_layers", c.num_layers, 1, 4096);
  check_count("num_attention_heads", c.num_heads, 1, 1 << 20);
  check_count("num_key_value_heads", c.num_kv_heads, 1, c.num_heads);
  check_count("head_dim", c.head_dim, 16, 1 << 14);
  check_count("max_position_embeddings", c.max_position_embeddings, 1, kLargest - 1);
  require(c.num_heads % c.num_kv_heads == 0,
          "model config: num_attention_heads {} is no multiple of num_key_value_heads {}",
          c.num_heads, c.num_kv_heads);
  require(c.head_dim % 16 == 0, "model config: head_dim {} is no multiple of 16", c.head_dim);
  check_count("num_attention_heads * head_dim", c.num_heads * c.head_dim, 1, kLargest);
}

void check_rope(const ModelConfig& c) {
  check_count("rotary_dim", c.rotary_dim, 2, c.head_dim);
  require(c.rotary_dim % 2 == 0, "model config: rotary_dim {} is odd", c.rotary_dim);
  const RopeConfig& r = c.rope;
  check_number("rope theta", r.theta, 0);
  if (r.kind == RopeKind::kDefault) return;
  check_number("rope factor", r.factor, 0);
  if (r.kind == RopeKind::kLinear) return;
  check_count("rope original_max_position_embeddings", r.original_max_position_embeddings, 1,
              int64_t{1} << 31);
  if (r.kind == RopeKind::kLlama3) {
    check_number("rope low_freq_factor", r.low_freq_factor, 0);
    check_number("rope high_freq_factor", r.high_freq_factor, r.low_freq_factor);
    return;
  }
  require(r.theta != 1, "model config: rope theta 1 has no YaRN correction range");
  check_number("rope beta_slow", r.beta_slow, 0);
  check_number("rope beta_fast", r.beta_fast, 0);
  if (r.attention_factor) check_number("rope attention_factor", *r.attention_factor, 0);
}

// Sizes that are each in range may still give more parameters, or bytes, than 64 bits count.
void check_countable(const ModelConfig& c) {
  constexpr int64_t kMost = int64_t{1} << 56;
  const auto parameters = [&](int64_t layers) {
    ModelConfig few = c;
    few.num_layers = layers;
    return parameter_count(few);
  };
  int64_t count = kMost + 1;
  try {
    const int64_t one = parameters(1), layer = parameters(2) - one;
    count = checked_add(one, checked_mul(layer, c.num_layers - 1));
  } catch (const Error&) {
    // Beyond 64 bits.
  }
  require(count <= kMost,
          "model config: the sizes give more parameters than can be counted (2^56)");
}

}  // namespace

bool ModelConfig::is_hybrid() const {
  return std::any_of(patterns.begin(), patterns.end(),
                     [](const AttentionPattern& p) { return !p.is_full(); });
}

double ModelConfig::attention_scale() const { return 1 / std::sqrt(static_cast<double>(head_dim)); }

void ModelConfig::validate() const {
  require(!family.empty(), "model config: family is empty");
  check_dimensions(*this);
  check_count("native_window", native_window, 0, int64_t{1} << 31);
  check_native_window(*this, max_position_embeddings);
  check_number("norm_eps", norm_eps, 0);
  if (position == PositionKind::kRope) {
    check_rope(*this);
  } else {
    check_count("learned_position_offset", learned_position_offset, 0, 1 << 20);
  }
  require(static_cast<int64_t>(patterns.size()) == num_layers,
          "model config: {} attention patterns for {} layers", patterns.size(), num_layers);
  for (size_t layer = 0; layer < patterns.size(); ++layer) {
    try {
      patterns[layer].validate(num_kv_heads);
    } catch (const Error& error) {
      fail("model config: attention pattern of layer {}: {}", layer, error.what());
    }
    require(patterns[layer].block_size == patterns[0].block_size,
            "model config: layer {} has block size {}, layer 0 has {}; they must be equal", layer,
            patterns[layer].block_size, patterns[0].block_size);
  }
  check_countable(*this);
}

void check_native_window(const ModelConfig& config, int64_t positions) {
  if (config.native_window == 0 || positions <= config.native_window) return;
  fail(
      "{} positions, but this model was trained with a sliding window: each of its tokens sees the "
      "newest {} only, and attention with such a window is not supported. Up to {} tokens it is "
      "the same as full attention: stay within them, or train the model at the greater length "
      "(longgen extend), which replaces the window",
      positions, config.native_window, config.native_window);
}

void set_full_attention(ModelConfig& config, int64_t block_size) {
  config.patterns.assign(static_cast<size_t>(config.num_layers),
                         AttentionPattern::full(block_size));
}

}  // namespace longgen::model
