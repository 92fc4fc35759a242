// How the numbers of a weight are stored, and where they lie when they stay quantised. Free of
// function bodies so that every instruction set may include it.
//
// A quantised weight [n, k] is cut into panels of 32 rows (the last filled up with zeros). A panel
// holds its blocks of 32 columns one after the other, so that a product reads memory once from
// front to back; the scales that several blocks share come before the first of them:
//
//   kQ8_0, kQ4_0   block: f16 d[32 rows], codes
//   kQ4_1          block: f16 d[32], f16 m[32], codes
//   kQ4_K          before 8 blocks: f16 d[32], f16 dmin[32]; block: u8 scale[32], u8 min[32], codes
//   kQ6_K          before 8 blocks: f16 d[32]; block: i8 scale[2][32], codes, high bits
//
// Codes are unsigned. Those of rows [16 h, 16 h + 16) come before those of the next 16. 8 bits: the
// code of row r and column 4 g + j is byte (h * 8 + g) * 64 + 4 r + j, as VNNI and AMX want it. 4
// bits: the bytes of columns 0-15 (g < 4) with the code of column + 16 in the high nibble. High
// bits of kQ6_K: byte (h * 2 + g / 4) * 64 + 4 r + j holds bits 4 and 5 of the codes of g % 4 = 0
// ... 3, from its lowest bits up.
//
// A value is d (code - 128) in kQ8_0, d (code - 8) in kQ4_0, d code + m in kQ4_1,
// d scale code - dmin min in kQ4_K and d scale (code - 32), a scale per 16 columns, in kQ6_K: the
// values of ggml's types of these names (formats/dequantize.h) exactly.
#pragma once

#include <cstdint>

namespace longgen {

enum class WeightScheme : uint8_t { kPlain, kQ8_0, kQ4_0, kQ4_1, kQ4_K, kQ6_K };
inline constexpr int kWeightSchemes = 6;

namespace quantized {

inline constexpr int64_t kBlock = 32;  // columns
inline constexpr int64_t kPanelRows = 32;

struct Layout {
  int64_t shared_blocks;  // blocks of 32 that share a head, and of which k is a multiple
  int64_t head_bytes;     // of 32 rows
  int64_t block_bytes;    // of 32 rows, scales included
  int64_t codes_at;       // in the block
  int bits;               // of a code: 4, 6 or 8
  int zero;               // the code of 0; 0 where there is an offset
  int groups;             // scales a row of a block has
  bool has_offset;
};

inline constexpr Layout kLayouts[kWeightSchemes] = {
    {},
    {1, 0, 64 + 1024, 64, 8, 128, 1, false},
    {1, 0, 64 + 512, 64, 4, 8, 1, false},
    {1, 0, 128 + 512, 128, 4, 0, 1, true},
    {8, 128, 64 + 512, 64, 4, 0, 1, true},
    {8, 64, 64 + 512 + 256, 64, 6, 32, 2, false},
};

}  // namespace quantized
}  // namespace longgen
