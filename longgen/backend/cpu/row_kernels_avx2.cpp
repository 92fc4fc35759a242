#include "longgen/backend/cpu/row_kernels_impl.h"

namespace longgen {

constinit const RowKernels<float> kRowKernelsF32Avx2 = kRowKernels<float>;
constinit const RowKernels<uint16_t> kRowKernelsBf16Avx2 = kRowKernels<uint16_t>;

}  // namespace longgen
