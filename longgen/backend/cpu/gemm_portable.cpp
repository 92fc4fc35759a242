#include "longgen/backend/cpu/gemm_impl.h"

namespace longgen {

constinit const GemmKernels kGemmF32Portable = kGemm<float>;
constinit const GemmKernels kGemmBf16Portable = kGemm<uint16_t>;

}  // namespace longgen
