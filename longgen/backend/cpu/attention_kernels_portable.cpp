// Attention kernels for the baseline processor.
#include "longgen/backend/cpu/attention_kernels_impl.h"

namespace longgen {

constinit const AttentionKernels kAttentionPortable = attention_kernels();

}  // namespace longgen
