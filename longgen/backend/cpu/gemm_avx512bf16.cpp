// bf16 products with vdpbf16ps: pairs of k, f32 sums.
#include "longgen/backend/cpu/gemm_bf16_dot.h"
#include "longgen/backend/cpu/gemm_panel.h"

namespace longgen {
namespace {

struct Bf16Panel {
  using Unit = uint32_t;
  using Operand = __m512i;
  static constexpr int kDepth = 2;
  LONGGEN_SIMD static __m512i row(uint32_t a) { return _mm512_set1_epi32(static_cast<int>(a)); }
  LONGGEN_SIMD static __m512i columns(const uint32_t* b) { return _mm512_loadu_si512(b); }
  LONGGEN_SIMD static Vf multiply_add(Vf acc, __m512i row, __m512i columns) {
    return Bf16Dot::multiply_add(acc, row, columns);
  }
};

}  // namespace

constinit const GemmKernels kGemmBf16Avx512Bf16 = {
    .element_bytes = 2,
    .k_unit = 2,
    .max_mr = kMr,
    .mr_unit = 1,
    .nr = kNv * kLanes,
    .max_kc = 640,
    .pack_a = pack_pairs,
    .pack_b = pack_pairs,
    .multiply = Panels<Bf16Panel>::multiply,
    .enter = nullptr,
    .leave = nullptr,
    .multiply_few = multiply_few<Bf16Dot, uint16_t>,
};

}  // namespace longgen
