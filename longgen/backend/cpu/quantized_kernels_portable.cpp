// Quantised products in plain loops.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "longgen/backend/cpu/quantized_kernels.h"
#include "longgen/tensor/dtype.h"

namespace longgen {
namespace {

using quantized::kBlock;
using quantized::kPanelRows;
using quantized::Layout;

float f16_at(const uint8_t* from, int row) {
  f16 value;
  std::memcpy(&value, from + 2 * row, sizeof value);
  return f16_to_float(value);
}

float value_of(float x) { return x; }
float value_of(uint16_t bits) { return static_cast<float>(std::bit_cast<bf16>(bits)); }

template <typename T>
void quantize(const T* x, int64_t blocks, int zero, int groups, int8_t* codes,
              ActivationBlock* info) {
  for (int64_t b = 0; b < blocks; ++b, x += kBlock, codes += kBlock, ++info) {
    float greatest = 0;
    bool finite = true;
    for (int i = 0; i < kBlock; ++i) {
      greatest = std::max(greatest, std::abs(value_of(x[i])));
      finite = finite && std::isfinite(value_of(x[i]));
    }
    int32_t sums[2] = {0, 0};
    const bool tiny = greatest <= 1e-30f;  // its reciprocal would overflow
    const float inverse = tiny || !finite ? 0.0f : 127.0f / greatest;
    for (int i = 0; i < kBlock; ++i) {
      codes[i] = finite ? static_cast<int8_t>(std::nearbyint(value_of(x[i]) * inverse)) : int8_t{0};
      sums[i / 16] += codes[i];
    }
    info->scale = !finite ? NAN : tiny ? 0.0f : greatest / 127.0f;
    info->sum = info->scale * static_cast<float>(sums[0] + sums[1]);
    info->start[0] = -zero * (groups == 1 ? sums[0] + sums[1] : sums[0]);
    info->start[1] = -zero * sums[1];
  }
}

// The codes of a block of a panel, four columns of a row together: [8][32 rows][4].
using Codes = uint8_t[8][kPanelRows][4];

template <int kBits>
void load_codes(const uint8_t* from, Codes& codes) {
  for (int g = 0; g < 8; ++g) {
    for (int half = 0; half < 2; ++half) {
      uint8_t* to = codes[g][16 * half];
      const uint8_t* eight = from + (half * 8 + g) * 64;
      const uint8_t* low = from + (half * 4 + g % 4) * 64;
      const uint8_t* high = from + 512 + (half * 2 + g / 4) * 64;
      for (int i = 0; i < 64; ++i) {
        if constexpr (kBits == 8) {
          to[i] = eight[i];
        } else {
          to[i] = static_cast<uint8_t>(g < 4 ? low[i] & 15 : low[i] >> 4);
          if constexpr (kBits == 6) {
            to[i] = static_cast<uint8_t>(to[i] | (high[i] >> (2 * (g % 4)) & 3) << 4);
          }
        }
      }
    }
  }
}

int32_t dot16(const Codes& codes, int row, int first, const int8_t* x) {
  int32_t sum = 0;
  for (int g = 0; g < 4; ++g) {
    for (int j = 0; j < 4; ++j) sum += codes[first + g][row][j] * x[4 * g + j];
  }
  return sum;
}

struct Scales {
  float d[2], m;
};
template <WeightScheme kScheme>
Scales load_scales(const uint8_t* head, const uint8_t* block, int row) {
  if constexpr (kScheme == WeightScheme::kQ4_K) {
    return {{f16_at(head, row) * block[row], 0}, f16_at(head + 64, row) * -float(block[32 + row])};
  } else if constexpr (kScheme == WeightScheme::kQ6_K) {
    const float d = f16_at(head, row);
    return {{d * static_cast<int8_t>(block[row]), d * static_cast<int8_t>(block[32 + row])}, 0};
  } else if constexpr (kScheme == WeightScheme::kQ4_1) {
    return {{f16_at(block, row), 0}, f16_at(block + 64, row)};
  } else {
    return {{f16_at(block, row), 0}, 0};
  }
}

template <WeightScheme kScheme>
void multiply(const uint8_t* panel, int64_t blocks, const int8_t* codes,
              const ActivationBlock* info, int64_t rows, float* c, int64_t ldc) {
  constexpr Layout l = quantized::kLayouts[static_cast<int>(kScheme)];
  for (int64_t r = 0; r < rows; ++r) std::fill_n(c + r * ldc, kPanelRows, 0.0f);
  const uint8_t* head = panel;
  Codes w;
  for (int64_t b = 0; b < blocks; ++b, panel += l.block_bytes) {
    if (l.shared_blocks > 1 && b % l.shared_blocks == 0) head = panel, panel += l.head_bytes;
    load_codes<l.bits>(panel + l.codes_at, w);
    for (int j = 0; j < kPanelRows; ++j) {
      const Scales s = load_scales<kScheme>(head, panel, j);
      for (int64_t r = 0; r < rows; ++r) {
        const int8_t* x = codes + (r * blocks + b) * kBlock;
        const ActivationBlock& a = info[r * blocks + b];
        const int32_t first = dot16(w, j, 0, x), second = dot16(w, j, 4, x + 16);
        float& sum = c[r * ldc + j];
        if (l.groups == 1) {
          sum += s.d[0] * a.scale * static_cast<float>(a.start[0] + first + second);
        } else {
          sum += s.d[0] * a.scale * static_cast<float>(a.start[0] + first);
          sum += s.d[1] * a.scale * static_cast<float>(a.start[1] + second);
        }
        if (l.has_offset) sum += s.m * a.sum;
      }
    }
  }
}

}  // namespace

constinit const QuantizedKernels kQuantizedPortable = {
    .name = "portable",
    .quantize_f32 = quantize<float>,
    .quantize_bf16 = quantize<uint16_t>,
    .multiply = {nullptr, multiply<WeightScheme::kQ8_0>, multiply<WeightScheme::kQ4_0>,
                 multiply<WeightScheme::kQ4_1>, multiply<WeightScheme::kQ4_K>,
                 multiply<WeightScheme::kQ6_K>}};

}  // namespace longgen
