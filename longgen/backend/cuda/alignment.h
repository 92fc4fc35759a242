// Where operands lie in memory, for kernels that take them in pieces of several elements.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "longgen/backend/cuda/launch.h"

namespace longgen::cuda {

// Whether data begins at a multiple of `piece` elements, and all of these distances between
// elements are multiples of it. Null data lies anywhere.
inline bool in_pieces(const void* data, int64_t piece, int64_t element_bytes,
                      std::initializer_list<int64_t> distances) {
  return reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(piece * element_bytes) == 0 &&
         std::all_of(distances.begin(), distances.end(), [&](int64_t d) { return d % piece == 0; });
}

// Whether rows consist of such pieces.
inline bool in_pieces(const Rows& x, int64_t piece, int64_t element_bytes) {
  return in_pieces(x.data, piece, element_bytes, {x.cols, x.outer_stride, x.inner_stride});
}

}  // namespace longgen::cuda
