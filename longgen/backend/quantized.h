// Quantised weights as values: sizes, filling and reading the layout of weight_scheme.h.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "longgen/backend/backend.h"

namespace longgen::quantized {

// "Q4_1", ...; "plain".
std::string_view scheme_name(WeightScheme scheme);

inline const Layout& layout(WeightScheme scheme) { return kLayouts[static_cast<int>(scheme)]; }

// Values of a row that are stored together: 32, or 256 for the K schemes.
inline int64_t row_block(WeightScheme scheme) { return layout(scheme).shared_blocks * kBlock; }

// Bytes of a weight [n, k]. Throws Error unless k is a multiple of row_block().
int64_t weight_bytes(WeightScheme scheme, int64_t n, int64_t k);

// row_block() consecutive values of one row.
struct RowBlock {
  uint16_t d = 0, m = 0;             // f16; m: the offset of kQ4_1, dmin of kQ4_K
  std::array<uint8_t, 16> scales{};  // kQ4_K: 8; kQ6_K: 16, two's complement
  std::array<uint8_t, 8> mins{};     // kQ4_K
  std::array<uint8_t, 256> codes{};
};

// Block `index` of `row`. Different rows may be stored at the same time.
void store_block(const WeightView& w, int64_t row, int64_t index, const RowBlock& block);
RowBlock load_block(const WeightView& w, int64_t row, int64_t index);

// The k values of a row, exact (a product of two f16 and f32 numbers fits f64).
void dequantize_row(const WeightView& w, int64_t row, double* out);

}  // namespace longgen::quantized
