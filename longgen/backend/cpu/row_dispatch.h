// The row kernels of an instruction set, and f32 / bf16 by element type.
#pragma once

#include <type_traits>

#include "longgen/backend/backend.h"
#include "longgen/backend/cpu/row_kernels.h"

namespace longgen {

template <typename T>
const RowKernels<T>& row_kernels(CpuIsa isa);
template <>
const RowKernels<float>& row_kernels<float>(CpuIsa isa);
template <>
const RowKernels<uint16_t>& row_kernels<uint16_t>(CpuIsa isa);

// Calls f(T{}) with T = float or uint16_t. The dtype was checked before.
template <typename F>
decltype(auto) by_dtype(DType dtype, F&& f) {
  return dtype == DType::kBF16 ? f(uint16_t{}) : f(float{});
}

}  // namespace longgen
