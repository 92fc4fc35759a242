// The element types of GGUF that are read, and their values as f32. Quantised types store blocks of
// consecutive elements of a row; layouts after ggml's ggml-common.h:
//   Q8_0  32 elements, 34 bytes: f16 d, int8 q[32];                     x = d q
//   Q4_0  32 elements, 18 bytes: f16 d, 16 bytes of nibbles;            x = d (q - 8)
//   Q4_1  32 elements, 20 bytes: f16 d, f16 m, 16 bytes of nibbles;     x = d q + m
//   Q5_0  32 elements, 22 bytes: f16 d, u32 high bits, nibbles[16];     x = d (q - 16)
//   Q5_1  32 elements, 24 bytes: f16 d, f16 m, u32 high bits, nibbles;  x = d q + m
//   IQ4_NL 32 elements, 18 bytes: f16 d, 16 bytes of nibbles;           x = d table[q]
//         (byte j holds element j in its low and j + 16 in its high nibble)
//   Q8_K  256 elements, 292 bytes: f32 d, int8 q[256], int16 sums[16];  x = d q
//   Q2_K  256 elements, 84 bytes: scales[16] of two nibbles, two bits q[64], f16 d, f16 dmin;
//         x = d low q - dmin high, one pair of nibbles per 16 elements
//   Q3_K  256 elements, 110 bytes: high bits[32], two bits q[64], 6-bit scales[12], f16 d;
//         x = d (scale - 32) (q - 4 where the high bit is not set), one scale per 16 elements
//   Q4_K  256 elements, 144 bytes: f16 d, f16 dmin, 6-bit scales and minima[12], nibbles[128];
//         x = d scale q - dmin min, one pair per 32 elements
//   Q5_K  256 elements, 176 bytes: as Q4_K with high bits[32] before the nibbles
//   Q6_K  256 elements, 210 bytes: low nibbles ql[128], high bits qh[64], int8 scales[16], f16 d;
//         x = d scale (q - 32), one scale per 16 elements
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace longgen::formats {

enum class GgmlType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kQ8_K = 15,
  kIQ4_NL = 20,
  kBF16 = 30,
};

struct GgmlTypeInfo {
  GgmlType type;
  std::string_view name;
  int64_t block_elements, block_bytes;
};

// Null when the number is not one of GgmlType.
const GgmlTypeInfo* find_ggml_type(uint32_t number);
// ggml's name for any type number, "type 99" when it has none. For errors.
std::string ggml_type_name(uint32_t number);
// "F32, F16, ...": the types that are read, for errors.
std::string readable_ggml_types();

// count elements (a multiple of block_elements) at `source`, which needs no alignment.
void dequantize(GgmlType type, const std::byte* source, float* out, int64_t count);

}  // namespace longgen::formats
