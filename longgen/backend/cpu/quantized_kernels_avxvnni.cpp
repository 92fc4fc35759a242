// Quantised products with vpdpbusd on 8 rows of the weight at a time: processors without AVX-512.
#include "longgen/backend/cpu/quantized_panel.h"

namespace longgen {
namespace {

template <int kBits>
LONGGEN_SIMD Bytes dot16(Bytes sum, const Bytes* w, const int8_t* x) {
#pragma GCC unroll 4
  for (int g = 0; g < 4; ++g) sum = _mm256_dpbusd_avx_epi32(sum, w[g], splat_four(x + 4 * g));
  return sum;
}

}  // namespace
}  // namespace longgen

#include "longgen/backend/cpu/quantized_kernels_impl.h"

namespace longgen {

constinit const QuantizedKernels kQuantizedAvxVnni = make_quantized_kernels("avx-vnni");

}  // namespace longgen
