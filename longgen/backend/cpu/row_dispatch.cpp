#include "longgen/backend/cpu/row_dispatch.h"

#include "longgen/backend/cpu/cpu_features.h"

namespace longgen {

template <>
const RowKernels<float>& row_kernels<float>(CpuIsa isa) {
  switch (f32_isa(isa)) {
    case CpuIsa::kAvx512:
      return kRowKernelsF32Avx512;
    case CpuIsa::kAvx2:
      return kRowKernelsF32Avx2;
    default:
      return kRowKernelsF32Portable;
  }
}

template <>
const RowKernels<uint16_t>& row_kernels<uint16_t>(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kAvx512Bf16:
    case CpuIsa::kAmx:
      return kRowKernelsBf16Avx512Bf16;
    case CpuIsa::kAvx512:
      return kRowKernelsBf16Avx512;
    case CpuIsa::kAvx2:
      return kRowKernelsBf16Avx2;
    default:
      return kRowKernelsBf16Portable;
  }
}

}  // namespace longgen
