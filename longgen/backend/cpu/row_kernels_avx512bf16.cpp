// bf16 rows where the processor rounds to bf16 itself; f32 rows are those of avx512.
#include "longgen/backend/cpu/row_kernels_impl.h"

namespace longgen {

constinit const RowKernels<uint16_t> kRowKernelsBf16Avx512Bf16 = kRowKernels<uint16_t>;

}  // namespace longgen
