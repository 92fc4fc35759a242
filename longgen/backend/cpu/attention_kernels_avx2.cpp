// Attention kernels for AVX2 with FMA.
#include "longgen/backend/cpu/attention_kernels_impl.h"

namespace longgen {

constinit const AttentionKernels kAttentionAvx2 = attention_kernels();

}  // namespace longgen
