#include "longgen/backend/cpu/gemm_impl.h"

namespace longgen {

constinit const GemmKernels kGemmF32Avx2 = kGemm<float>;
constinit const GemmKernels kGemmBf16Avx2 = kGemm<uint16_t>;

}  // namespace longgen
