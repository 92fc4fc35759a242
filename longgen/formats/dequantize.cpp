#include "longgen/formats/dequantize.h"

#include <array>
#include <cstring>

#include "longgen/base/error.h"
#include "longgen/formats/convert_elements.h"

namespace longgen::formats {
namespace {

constexpr std::array<GgmlTypeInfo, 7> kTypes = {{
    {GgmlType::kF32, "F32", 1, 4},
    {GgmlType::kF16, "F16", 1, 2},
    {GgmlType::kBF16, "BF16", 1, 2},
    {GgmlType::kQ8_0, "Q8_0", 32, 34},
    {GgmlType::kQ4_0, "Q4_0", 32, 18},
    {GgmlType::kQ4_1, "Q4_1", 32, 20},
    {GgmlType::kQ6_K, "Q6_K", 256, 210},
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

template <typename Block>
void for_blocks(Block block, const GgmlTypeInfo& type, const std::byte* source, float* out,
                int64_t count) {
  for (int64_t i = 0; i < count / type.block_elements; ++i) {
    block(source + i * type.block_bytes, out + i * type.block_elements);
  }
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

void dequantize(GgmlType type, const std::byte* source, float* out, int64_t count) {
  const GgmlTypeInfo* info = find_ggml_type(static_cast<uint32_t>(type));
  require(info != nullptr && count % info->block_elements == 0,
          "{} elements are no whole number of {} blocks", count,
          ggml_type_name(static_cast<uint32_t>(type)));
  switch (type) {
    case GgmlType::kF32:
      return convert_elements(DType::kF32, source, DType::kF32, out, count);
    case GgmlType::kF16:
      return convert_elements(DType::kF16, source, DType::kF32, out, count);
    case GgmlType::kBF16:
      return convert_elements(DType::kBF16, source, DType::kF32, out, count);
    case GgmlType::kQ8_0:
      return for_blocks(block_q8_0, *info, source, out, count);
    case GgmlType::kQ4_0:
      return for_blocks(block_q4_0, *info, source, out, count);
    case GgmlType::kQ4_1:
      return for_blocks(block_q4_1, *info, source, out, count);
    case GgmlType::kQ6_K:
      return for_blocks(block_q6_k, *info, source, out, count);
  }
}

}  // namespace longgen::formats
