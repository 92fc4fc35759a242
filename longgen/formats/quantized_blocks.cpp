#include "longgen/formats/quantized_blocks.h"

#include <cmath>
#include <cstring>

#include "longgen/base/error.h"
#include "longgen/formats/dequantize.h"

namespace longgen::formats {
namespace {

using quantized::RowBlock;

uint16_t read_u16(const uint8_t* from) {
  uint16_t value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

// 16 bytes with element j in the low and element j + 16 in the high nibble of byte j.
void read_nibbles(const uint8_t* from, uint8_t* codes) {
  for (int j = 0; j < 16; ++j) {
    codes[j] = from[j] & 15;
    codes[j + 16] = from[j] >> 4;
  }
}

// Eight 6-bit scales and minima in 12 bytes: the first four of each in the low bits of bytes 0-3
// and 4-7; the others have their low four bits in bytes 8-11 (scale low, minimum high) and their
// high two at the top of bytes 0-3 and 4-7.
void read_q4_k_scales(const uint8_t* from, RowBlock& block) {
  for (size_t i = 0; i < 4; ++i) {
    block.scales[i] = from[i] & 63;
    block.mins[i] = from[i + 4] & 63;
    block.scales[i + 4] = static_cast<uint8_t>((from[i + 8] & 15) | from[i] >> 6 << 4);
    block.mins[i + 4] = static_cast<uint8_t>(from[i + 8] >> 4 | from[i + 4] >> 6 << 4);
  }
}

// 32 bytes of nibbles hold 64 elements: the low ones first.
void read_q4_k(const uint8_t* from, RowBlock& block) {
  block.d = read_u16(from);
  block.m = read_u16(from + 2);
  read_q4_k_scales(from + 4, block);
  for (size_t i = 0; i < 128; ++i) {
    const uint8_t both = from[16 + i];
    block.codes[i / 32 * 64 + i % 32] = both & 15;
    block.codes[i / 32 * 64 + 32 + i % 32] = both >> 4;
  }
}

// See block_q6_k in dequantize.cpp.
void read_q6_k(const uint8_t* from, RowBlock& block) {
  block.d = read_u16(from + 208);
  std::memcpy(block.scales.data(), from + 192, 16);
  for (size_t i = 0; i < 256; ++i) {
    const size_t half = i / 128, k = i % 128 / 32, j = i % 32;
    const int low = from[64 * half + 32 * (k % 2) + j] >> (k < 2 ? 0 : 4) & 15;
    const int high = from[128 + 32 * half + j] >> (2 * k) & 3;
    block.codes[i] = static_cast<uint8_t>(low | high << 4);
  }
}

}  // namespace

WeightScheme scheme_of_ggml_type(uint32_t type) {
  switch (static_cast<GgmlType>(type)) {
    case GgmlType::kQ8_0:
      return WeightScheme::kQ8_0;
    case GgmlType::kQ4_0:
      return WeightScheme::kQ4_0;
    case GgmlType::kQ4_1:
      return WeightScheme::kQ4_1;
    case GgmlType::kQ4_K:
      return WeightScheme::kQ4_K;
    case GgmlType::kQ6_K:
      return WeightScheme::kQ6_K;
    default:
      return WeightScheme::kPlain;
  }
}

quantized::RowBlock read_quantized_block(WeightScheme scheme, const std::byte* source) {
  const auto* from = reinterpret_cast<const uint8_t*>(source);
  RowBlock block;
  switch (scheme) {
    case WeightScheme::kQ8_0:
      block.d = read_u16(from);
      for (size_t i = 0; i < 32; ++i) block.codes[i] = from[2 + i] ^ 0x80;  // + 128
      return block;
    case WeightScheme::kQ4_0:
      block.d = read_u16(from);
      read_nibbles(from + 2, block.codes.data());
      return block;
    case WeightScheme::kQ4_1:
      block.d = read_u16(from);
      block.m = read_u16(from + 2);
      read_nibbles(from + 4, block.codes.data());
      return block;
    case WeightScheme::kQ4_K:
      read_q4_k(from, block);
      return block;
    case WeightScheme::kQ6_K:
      read_q6_k(from, block);
      return block;
    case WeightScheme::kPlain:
      break;
  }
  fail("plain weights have no blocks");
}

bool is_finite(WeightScheme scheme, const quantized::RowBlock& block) {
  const auto number = [](uint16_t bits) { return (bits & 0x7c00u) != 0x7c00u; };
  return number(block.d) && (!quantized::layout(scheme).has_offset || number(block.m));
}

}  // namespace longgen::formats
