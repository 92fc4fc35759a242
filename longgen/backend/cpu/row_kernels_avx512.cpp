#include "longgen/backend/cpu/row_kernels_impl.h"

namespace longgen {

constinit const RowKernels<float> kRowKernelsF32Avx512 = kRowKernels<float>;
constinit const RowKernels<uint16_t> kRowKernelsBf16Avx512 = kRowKernels<uint16_t>;

}  // namespace longgen
