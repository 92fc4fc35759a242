// Attention kernels for AVX-512 with vdpbf16ps.
#include "longgen/backend/cpu/attention_kernels_impl.h"

namespace longgen {

constinit const AttentionKernels kAttentionAvx512Bf16 = attention_kernels();

}  // namespace longgen
