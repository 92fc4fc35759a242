// Quantised products with vpdpbusd on 16 rows of the weight at a time.
#include "longgen/backend/cpu/quantized_panel.h"

namespace longgen {
namespace {

template <int kBits>
LONGGEN_SIMD Bytes dot16(Bytes sum, const Bytes* w, const int8_t* x) {
#pragma GCC unroll 4
  for (int g = 0; g < 4; ++g) {
    // Left to itself, the compiler keeps what it has spread over a register for the panel's other
    // half, runs out of registers and spills; the instruction spreads a memory operand for free.
    struct Four {
      int8_t x[4];
    };
    __asm__("vpdpbusd %2%{1to16%}, %1, %0"
            : "+v"(sum)
            : "v"(w[g]), "m"(*reinterpret_cast<const Four*>(x + 4 * g)));
  }
  return sum;
}

}  // namespace
}  // namespace longgen

#include "longgen/backend/cpu/quantized_kernels_impl.h"

namespace longgen {

constinit const QuantizedKernels kQuantizedAvx512Vnni = make_quantized_kernels("avx512-vnni");

}  // namespace longgen
