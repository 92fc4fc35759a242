// Blocks of GGUF's quantised types that products take as they are (backend/quantized.h); their
// layouts are those of dequantize.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "longgen/backend/quantized.h"

namespace longgen::formats {

// kPlain for types that are dequantised when read.
WeightScheme scheme_of_ggml_type(uint32_t type);

// The block of quantized::row_block(scheme) values at `block`, which needs no alignment.
quantized::RowBlock read_quantized_block(WeightScheme scheme, const std::byte* block);

// Whether all scales are numbers.
bool is_finite(WeightScheme scheme, const quantized::RowBlock& block);

}  // namespace longgen::formats
