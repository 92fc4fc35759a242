// Rotary settings in config.json, in the spelling before Transformers 5 (rope_theta, rope_scaling,
// and a partial rotation beside them) and since (rope_parameters).
#pragma once

#include <array>
#include <string_view>

#include "longgen/formats/json.h"
#include "longgen/model/config.h"

namespace longgen::formats {

// What a family calls them.
struct HfRopeKeys {
  std::string_view theta = "rope_theta";
  // The share of a head's channels that rotates; the first that is not "" is written. None: all.
  std::array<std::string_view, 2> partial = {};
  double partial_otherwise = 1;  // when the file does not say
};

struct HfRope {
  model::RopeConfig rope;
  double partial_rotary_factor = 1;
};

// Throws Error naming the field: unknown types (with the reason for those that are known but not
// supported: dynamic, longrope), missing or absurd numbers, spellings that disagree, a partial
// rotation in a family that has none.
HfRope read_hf_rope(const JsonObject& config, int64_t max_position_embeddings,
                    const HfRopeKeys& keys = {});

// Writes the base, rope_parameters and, when scaled, rope_scaling, so that old and new readers
// agree.
void write_hf_rope(const model::RopeConfig& rope, OrderedJson& out, const HfRopeKeys& keys = {},
                   double partial_rotary_factor = 1);

// Channels that rotate: the integer part of the product, as Transformers computes it.
int64_t rotary_channels(int64_t head_dim, double partial_rotary_factor);
// A factor from which rotary_channels gives model.rotary_dim.
double partial_rotary_factor(const model::ModelConfig& model);

}  // namespace longgen::formats
