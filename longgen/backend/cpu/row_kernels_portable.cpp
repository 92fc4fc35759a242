#include "longgen/backend/cpu/row_kernels_impl.h"

namespace longgen {

constinit const RowKernels<float> kRowKernelsF32Portable = kRowKernels<float>;
constinit const RowKernels<uint16_t> kRowKernelsBf16Portable = kRowKernels<uint16_t>;

}  // namespace longgen
