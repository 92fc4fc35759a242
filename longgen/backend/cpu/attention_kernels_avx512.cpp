// Attention kernels for AVX-512.
#include "longgen/backend/cpu/attention_kernels_impl.h"

namespace longgen {

constinit const AttentionKernels kAttentionAvx512 = attention_kernels();

}  // namespace longgen
