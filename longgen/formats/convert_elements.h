// Element by element conversion between stored and computed types.
#pragma once

#include <cstddef>
#include <cstdint>

#include "longgen/tensor/dtype.h"
#include "longgen/tensor/tensor.h"

namespace longgen::formats {

bool is_floating(DType dtype);

// count elements; `source` needs no alignment. Any floating type to any other (rounded to nearest
// even; through f32 unless one side is f64), integers to the same type only; anything else throws
// Error. `to_data` must be aligned for its type.
void convert_elements(DType from, const std::byte* source, DType to, void* to_data, int64_t count);

// True when an element of a floating type is NaN or infinite. False for integers.
bool has_nonfinite(const Tensor& contiguous);

}  // namespace longgen::formats
