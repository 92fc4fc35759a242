#include "longgen/formats/dequantize.h"

#include <array>
#include <cstring>

#include "longgen/base/error.h"
#include "longgen/formats/convert_elements.h"

namespace longgen::formats {
namespace {

using BlockReader = void (*)(const std::byte* block, float* out);

constexpr std::array<GgmlTypeInfo, 15> kTypes = {{
    {GgmlType::kF32, "F32", 1, 4},
    {GgmlType::kF16, "F16", 1, 2},
    {GgmlType::kBF16, "BF16", 1, 2},
    {GgmlType::kQ8_0, "Q8_0", 32, 34},
    {GgmlType::kQ4_0, "Q4_0", 32, 18},
    {GgmlType::kQ4_1, "Q4_1", 32, 20},
    {GgmlType::kQ5_0, "Q5_0", 32, 22},
    {GgmlType::kQ5_1, "Q5_1", 32, 24},
    {GgmlType::kIQ4_NL, "IQ4_NL", 32, 18},
    {GgmlType::kQ2_K, "Q2_K", 256, 84},
    {GgmlType::kQ3_K, "Q3_K", 256, 110},
    {GgmlType::kQ4_K, "Q4_K", 256, 144},
    {GgmlType::kQ5_K, "Q5_K", 256, 176},
    {GgmlType::kQ6_K, "Q6_K", 256, 210},
    {GgmlType::kQ8_K, "Q8_K", 256, 292},
}};

// ggml's names by number; empty where it has none (any more).
constexpr std::array<std::string_view, 40> kNames = {
    "F32",     "F16",    "Q4_0",    "Q4_1",  "",       "",      "Q5_0",  "Q5_1",
    "Q8_0",    "Q8_1",   "Q2_K",    "Q3_K",  "Q4_K",   "Q5_K",  "Q6_K",  "Q8_K",
    "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS",
    "I8",      "I16",    "I32",     "I64",   "F64",    "IQ1_M", "BF16",  "",
    "",        "",       "TQ1_0",   "TQ2_0", "",       "",      "",      "MXFP4"};

float read_f16(const std::byte* source) {
  f16 value;
  std::memcpy(&value, source, sizeof(value));
  return f16_to_float(value);
}

int low_nibble(std::byte b) { return static_cast<int>(b) & 15; }
int high_nibble(std::byte b) { return static_cast<int>(b) >> 4; }
int signed_byte(std::byte b) { return static_cast<int8_t>(b); }
// `count` bits of a byte from `shift` on.
int bits(std::byte b, int shift, int count) {
  return (static_cast<int>(b) >> shift) & ((1 << count) - 1);
}
// Bit i of a little-endian mask.
int bit_of(const std::byte* mask, int i) { return bits(mask[i / 8], i % 8, 1); }

void block_q8_0(const std::byte* block, float* out) {
  const float d = read_f16(block);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(signed_byte(block[2 + i]));
}

void block_q4_0(const std::byte* block, float* out) {
  const float d = read_f16(block);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(low_nibble(block[2 + i]) - 8);
    out[i + 16] = d * static_cast<float>(high_nibble(block[2 + i]) - 8);
  }
}

void block_q4_1(const std::byte* block, float* out) {
  const float d = read_f16(block), m = read_f16(block + 2);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(low_nibble(block[4 + i])) + m;
    out[i + 16] = d * static_cast<float>(high_nibble(block[4 + i])) + m;
  }
}

// Element i's five bits: a nibble and bit i of the mask.
int five_bits(const std::byte* mask, const std::byte* nibbles, int i) {
  const int low = i < 16 ? low_nibble(nibbles[i]) : high_nibble(nibbles[i - 16]);
  return low | bit_of(mask, i) << 4;
}

void block_q5_0(const std::byte* block, float* out) {
  const float d = read_f16(block);
  for (int i = 0; i < 32; ++i) {
    out[i] = d * static_cast<float>(five_bits(block + 2, block + 6, i) - 16);
  }
}

void block_q5_1(const std::byte* block, float* out) {
  const float d = read_f16(block), m = read_f16(block + 2);
  for (int i = 0; i < 32; ++i) {
    out[i] = d * static_cast<float>(five_bits(block + 4, block + 8, i)) + m;
  }
}

void block_iq4_nl(const std::byte* block, float* out) {
  constexpr std::array<int, 16> kTable = {-127, -104, -83, -65, -49, -35, -22, -10,
                                          1,    13,   25,  38,  53,  69,  89,  113};
  const float d = read_f16(block);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(kTable[static_cast<size_t>(low_nibble(block[2 + i]))]);
    out[i + 16] = d * static_cast<float>(kTable[static_cast<size_t>(high_nibble(block[2 + i]))]);
  }
}

// The sums are those of the quants, for dot products.
void block_q8_k(const std::byte* block, float* out) {
  float d;
  std::memcpy(&d, block, sizeof(d));
  for (int i = 0; i < 256; ++i) out[i] = d * static_cast<float>(signed_byte(block[4 + i]));
}

// Where the two bits of Q2_K and Q3_K stand: element e has bits 2 (e / 32 % 4) of byte
// 32 (e / 128) + e % 32.
int two_bits(const std::byte* quants, int e) {
  return bits(quants[e / 128 * 32 + e % 32], 2 * (e / 32 % 4), 2);
}

void block_q2_k(const std::byte* block, float* out) {
  const float d = read_f16(block + 80), dmin = read_f16(block + 82);
  for (int e = 0; e < 256; ++e) {
    const std::byte pair = block[e / 16];
    const float scale = d * static_cast<float>(low_nibble(pair));
    const float offset = dmin * static_cast<float>(high_nibble(pair));
    out[e] = scale * static_cast<float>(two_bits(block + 16, e)) - offset;
  }
}

void block_q3_k(const std::byte* block, float* out) {
  const float d = read_f16(block + 108);
  const std::byte* packed = block + 96;
  for (int e = 0; e < 256; ++e) {
    const int j = e / 16;  // scale j: low four bits in byte j % 8, high two in byte 8 + j % 4
    const int low = bits(packed[j % 8], 4 * (j / 8), 4),
              high = bits(packed[8 + j % 4], j / 4 * 2, 2);
    const float scale = d * static_cast<float>((low | high << 4) - 32);
    const int missing = bits(block[e % 32], e / 32, 1) == 0 ? 4 : 0;
    out[e] = scale * static_cast<float>(two_bits(block + 32, e) - missing);
  }
}

// Scale and minimum of group j (of eight), six bits each, in twelve bytes: the first four groups
// have the low six bits of bytes j and j + 4, the others a nibble each of byte j + 4 and the two
// bits left over.
struct ScaleAndMinimum {
  int scale, minimum;
};
ScaleAndMinimum unpack_scale(const std::byte* packed, int j) {
  if (j < 4) return {bits(packed[j], 0, 6), bits(packed[j + 4], 0, 6)};
  return {low_nibble(packed[j + 4]) | bits(packed[j - 4], 6, 2) << 4,
          high_nibble(packed[j + 4]) | bits(packed[j], 6, 2) << 4};
}

// Q4_K and, with high bits, Q5_K. Group j has nibble j % 2 of bytes 32 (j / 2) to + 31.
void block_q45_k(const std::byte* block, const std::byte* high_bits, const std::byte* nibbles,
                 float* out) {
  const float d = read_f16(block), dmin = read_f16(block + 2);
  for (int j = 0; j < 8; ++j) {
    const ScaleAndMinimum packed = unpack_scale(block + 4, j);
    const float scale = d * static_cast<float>(packed.scale);
    const float offset = dmin * static_cast<float>(packed.minimum);
    for (int i = 0; i < 32; ++i) {
      const int low = bits(nibbles[j / 2 * 32 + i], j % 2 * 4, 4);
      const int high = high_bits == nullptr ? 0 : bits(high_bits[i], j, 1);
      out[32 * j + i] = scale * static_cast<float>(low | high << 4) - offset;
    }
  }
}

void block_q4_k(const std::byte* block, float* out) {
  block_q45_k(block, nullptr, block + 16, out);
}

void block_q5_k(const std::byte* block, float* out) {
  block_q45_k(block, block + 16, block + 48, out);
}

// Two halves of 128 elements. In each, element i + 32 k (i < 32, k < 4) has its low four bits in
// nibble k / 2 of ql[i + 32 (k % 2)] and its high two in bits 2 k of qh[i].
void block_q6_k(const std::byte* block, float* out) {
  const float d = read_f16(block + 208);
  for (int half = 0; half < 2; ++half) {
    const std::byte* ql = block + 64 * half;
    const std::byte* qh = block + 128 + 32 * half;
    const std::byte* scales = block + 192 + 8 * half;
    for (int k = 0; k < 4; ++k) {
      for (int i = 0; i < 32; ++i) {
        const std::byte low_bits = ql[i + 32 * (k % 2)];
        const int low = k < 2 ? low_nibble(low_bits) : high_nibble(low_bits);
        const int high = (static_cast<int>(qh[i]) >> (2 * k)) & 3;
        const float scale = d * static_cast<float>(signed_byte(scales[2 * k + i / 16]));
        out[128 * half + 32 * k + i] = scale * static_cast<float>((low | high << 4) - 32);
      }
    }
  }
}

// Null for the types that have no blocks.
BlockReader block_reader(GgmlType type) {
  switch (type) {
    case GgmlType::kQ8_0:
      return block_q8_0;
    case GgmlType::kQ4_0:
      return block_q4_0;
    case GgmlType::kQ4_1:
      return block_q4_1;
    case GgmlType::kQ5_0:
      return block_q5_0;
    case GgmlType::kQ5_1:
      return block_q5_1;
    case GgmlType::kIQ4_NL:
      return block_iq4_nl;
    case GgmlType::kQ2_K:
      return block_q2_k;
    case GgmlType::kQ3_K:
      return block_q3_k;
    case GgmlType::kQ4_K:
      return block_q4_k;
    case GgmlType::kQ5_K:
      return block_q5_k;
    case GgmlType::kQ6_K:
      return block_q6_k;
    case GgmlType::kQ8_K:
      return block_q8_k;
    case GgmlType::kF32:
    case GgmlType::kF16:
    case GgmlType::kBF16:
      break;
  }
  return nullptr;
}

}  // namespace

const GgmlTypeInfo* find_ggml_type(uint32_t number) {
  for (const GgmlTypeInfo& type : kTypes) {
    if (static_cast<uint32_t>(type.type) == number) return &type;
  }
  return nullptr;
}

std::string ggml_type_name(uint32_t number) {
  if (number < kNames.size() && !kNames[number].empty()) return std::string(kNames[number]);
  return fmt::format("type {}", number);
}

std::string readable_ggml_types() {
  std::string text;
  for (const GgmlTypeInfo& type : kTypes) {
    text += fmt::format("{}{}", text.empty() ? "" : ", ", type.name);
  }
  return text;
}

void dequantize(GgmlType type, const std::byte* source, float* out, int64_t count) {
  const GgmlTypeInfo* info = find_ggml_type(static_cast<uint32_t>(type));
  require(info != nullptr && count % info->block_elements == 0,
          "{} elements are no whole number of {} blocks", count,
          ggml_type_name(static_cast<uint32_t>(type)));
  if (type == GgmlType::kF32) return convert_elements(DType::kF32, source, DType::kF32, out, count);
  if (type == GgmlType::kF16) return convert_elements(DType::kF16, source, DType::kF32, out, count);
  if (type == GgmlType::kBF16) {
    return convert_elements(DType::kBF16, source, DType::kF32, out, count);
  }
  const BlockReader read = block_reader(type);
  for (int64_t i = 0; i < count / info->block_elements; ++i) {
    read(source + i * info->block_bytes, out + i * info->block_elements);
  }
}

}  // namespace longgen::formats
