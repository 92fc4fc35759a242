// Rotary settings in config.json, in the spelling before Transformers 5 (rope_theta and
// rope_scaling) and since (rope_parameters).
#pragma once

#include "longgen/formats/json.h"
#include "longgen/model/config.h"

namespace longgen::formats {

// Throws Error naming the field: unknown types, missing or absurd numbers, spellings that disagree.
model::RopeConfig read_hf_rope(const JsonObject& config, int64_t max_position_embeddings);

// Writes rope_theta, rope_parameters and, when scaled, rope_scaling, so that old and new readers
// agree.
void write_hf_rope(const model::RopeConfig& rope, OrderedJson& out);

}  // namespace longgen::formats
