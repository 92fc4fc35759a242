// The element types of GGUF that are read, and their values as f32. Quantised types store blocks of
// consecutive elements of a row; layouts after ggml's ggml-common.h:
//   Q8_0  32 elements, 34 bytes: f16 d, int8 q[32];                     x = d q
//   Q4_0  32 elements, 18 bytes: f16 d, 16 bytes of nibbles;            x = d (q - 8)
//   Q4_1  32 elements, 20 bytes: f16 d, f16 m, 16 bytes of nibbles;     x = d q + m
//         (byte j holds element j in its low and j + 16 in its high nibble)
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
  kQ8_0 = 8,
  kQ6_K = 14,
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

// count elements (a multiple of block_elements) at `source`, which needs no alignment.
void dequantize(GgmlType type, const std::byte* source, float* out, int64_t count);

}  // namespace longgen::formats
