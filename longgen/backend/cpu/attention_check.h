// Argument checks: throw Error naming what is wrong.
#pragma once

#include "longgen/backend/backend.h"

namespace longgen {

// What every workspace size rests on: whole groups of query heads, channels in sixteens.
void check_attention_shape(const AttentionShape& shape);
void check_attention(const AttentionForward& args, int64_t workspace_bytes);
void check_attention(const AttentionBackward& args, int64_t workspace_bytes);

}  // namespace longgen
