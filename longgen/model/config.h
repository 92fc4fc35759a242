// What a decoder is. One decoder serves all families; they differ in these switches alone.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "longgen/backend/backend.h"
#include "longgen/pattern/pattern.h"

namespace longgen::model {

enum class RopeKind : uint8_t { kDefault, kLinear, kLlama3, kYarn };

// Rotary frequencies and their scaling, as Hugging Face's rope_parameters name them.
struct RopeConfig {
  double theta = 10000;
  RopeKind kind = RopeKind::kDefault;
  double factor = 1;                                 // linear, llama3, yarn
  double low_freq_factor = 1, high_freq_factor = 4;  // llama3
  int64_t original_max_position_embeddings = 0;      // llama3, yarn
  double beta_fast = 32, beta_slow = 1;              // yarn
  std::optional<double> attention_factor;            // yarn; default 0.1 ln(factor) + 1

  bool operator==(const RopeConfig&) const = default;
};

enum class PositionKind : uint8_t { kRope, kLearned };

struct ModelConfig {
  std::string family = "llama";  // Hugging Face's model_type of the base family
  int64_t vocab_size = 0, hidden_size = 0, intermediate_size = 0;
  int64_t num_layers = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0;
  int64_t max_position_embeddings = 0;
  // For models whose own attention sees no more than the newest tokens (Mistral 7B v0.1, Phi-3-mini
  // 4K): how many, the query counted. Up to so many tokens full attention is the same, so such a
  // model is one of that many positions (max_position_embeddings <= native_window); beyond them
  // its attention would be a window of tokens, which there is not, and passes refuse them.
  // Training at a greater length makes another model of it and sets 0: no such window.
  int64_t native_window = 0;

  NormKind norm = NormKind::kRms;
  double norm_eps = 1e-5;
  bool norm_bias = false;
  bool qkv_bias = false, o_bias = false, mlp_bias = false;
  Activation activation = Activation::kSilu;
  bool gated_mlp = true;
  bool parallel_residual = false;  // x + attention(norm1(x)) + mlp(norm2(x))
  bool qk_norm = false;            // RMS norm over each head's channels, before the rotation
  PositionKind position = PositionKind::kRope;
  int64_t rotary_dim = 0;  // channels that rotate, <= head_dim
  RopeConfig rope;
  int64_t learned_position_offset = 0;  // 2 for OPT
  bool tie_word_embeddings = false;

  // One per layer; all block sizes are equal.
  std::vector<AttentionPattern> patterns;

  bool is_hybrid() const;
  int64_t group_size() const { return num_heads / num_kv_heads; }
  double attention_scale() const;

  // Throws Error naming the field when something is absent, absurd (a dimension beyond 2^31, more
  // than 4096 layers, 2^56 parameters) or inconsistent; head_dim must be a multiple of 16.
  void validate() const;
};

// Throws Error with the reason when the model's own window is less than `positions`.
void check_native_window(const ModelConfig& config, int64_t positions);

// Sets every layer to full attention with this block size.
void set_full_attention(ModelConfig& config, int64_t block_size = 64);

// cos in the first half, sin in the second: f32 [positions, rotary_dim], computed in fp64 and
// rounded once. Includes YaRN's attention factor.
std::vector<float> rope_table(const RopeConfig& rope, int64_t rotary_dim, int64_t positions);

// The base for extending a model from old_length to new_length: theta * (new / old)^1.8.
double extended_rope_theta(double theta, int64_t old_length, int64_t new_length);

}  // namespace longgen::model
