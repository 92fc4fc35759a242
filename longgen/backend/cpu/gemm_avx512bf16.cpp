// bf16 products with vdpbf16ps: pairs of k, f32 sums.
#include "longgen/backend/cpu/gemm_bf16_dot.h"

namespace longgen {
namespace {

constexpr int kMr = 14, kNv = 2;  // 28 accumulators of 32 registers

template <int kRows>
void multiply_panel(int64_t depth, const uint32_t* a, const uint32_t* b, float* c, int64_t ldc,
                    bool accumulate) {
  Vf acc[kRows][kNv] = {};
  for (int64_t k = 0; k < depth; k += 2, a += kRows, b += kNv * kLanes) {
    __m512i column[kNv];
#pragma GCC unroll 4
    for (int j = 0; j < kNv; ++j) column[j] = _mm512_loadu_si512(b + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const __m512i row = _mm512_set1_epi32(static_cast<int>(a[i]));
#pragma GCC unroll 4
      for (int j = 0; j < kNv; ++j) acc[i][j] = Bf16Dot::multiply_add(acc[i][j], row, column[j]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kNv; ++j) {
      float* to = c + i * ldc + j * kLanes;
      store(to, accumulate ? load(to) + acc[i][j] : acc[i][j]);
    }
  }
}

using MultiplyPanel = void (*)(int64_t, const uint32_t*, const uint32_t*, float*, int64_t, bool);

template <int... kRows>
struct PanelTable {
  static constexpr MultiplyPanel kEntries[] = {multiply_panel<kRows>...};
};
using Panels = PanelTable<1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14>;

void multiply(int mr, int64_t depth, const void* a, const void* b, float* c, int64_t ldc,
              bool accumulate) {
  Panels::kEntries[mr - 1](depth, static_cast<const uint32_t*>(a), static_cast<const uint32_t*>(b),
                           c, ldc, accumulate);
}

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
    .multiply = multiply,
    .enter = nullptr,
    .leave = nullptr,
    .multiply_few = multiply_few<Bf16Dot, uint16_t>,
};

}  // namespace longgen
