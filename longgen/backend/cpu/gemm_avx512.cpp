#include "longgen/backend/cpu/gemm_impl.h"

namespace longgen {

constinit const GemmKernels kGemmF32Avx512 = kGemm<float>;
constinit const GemmKernels kGemmBf16Avx512 = kGemm<uint16_t>;

}  // namespace longgen
