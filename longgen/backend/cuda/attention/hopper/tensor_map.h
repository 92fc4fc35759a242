// Tensor maps: what the TMA unit knows of a tensor in global memory. Host side.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <span>

namespace longgen::cuda::hopper {

// A tensor of bf16 with up to 5 dimensions, innermost (contiguous) first; strides of the others in
// elements, multiples of 8. `box` is what one copy moves, its innermost dimension 64 elements with
// the 128-byte swizzle: 16-byte chunk c of the box's row r lies at chunk c ^ (r % 8) of row r, the
// rows being 128 bytes apart in shared memory at a multiple of 1024 bytes.
struct BoxedTensor {
  const void* data = nullptr;
  std::span<const int64_t> sizes, strides;  // strides: one fewer than sizes
  std::span<const int32_t> box;
  bool swizzled = true;  // false: rows of the box follow each other densely
};

// Throws Error with the description when the driver refuses it, or when there is no driver.
CUtensorMap make_tensor_map(const BoxedTensor& tensor);

}  // namespace longgen::cuda::hopper
