// Inner loops of products with quantised weights (weight_scheme.h). No function bodies here: see
// simd.h.
//
// Activations are rounded to int8 in blocks of 32: x = scale * code + e with |e| <= scale / 2,
// scale = greatest magnitude / 127. A block's sum of code products is then exact in int32, and
//   y = sum over blocks of d * scale * (sum of w code * x code - zero * sum of x codes)
//                         + m * scale * (sum of x codes)
// in f32 with d, m and zero of the weight's scheme. Every output is summed over ascending blocks
// with the same operations in all kernels but the portable ones (which have no fused
// multiply-add), so their results are equal to the bit.
#pragma once

#include <cstdint>

#include "longgen/backend/weight_scheme.h"

namespace longgen {

// What a block of activations carries beside its 32 codes.
struct ActivationBlock {
  float scale;
  float sum;         // scale * sum of codes
  int32_t start[2];  // -zero * sum of codes: of the block, or of its halves when the scheme has two
                     // scales a block
};

struct QuantizedKernels {
  const char* name;
  // A row of `blocks` * 32 values. A block that holds NaN or infinity gets a scale of that kind.
  void (*quantize_f32)(const float* x, int64_t blocks, int zero, int groups, int8_t* codes,
                       ActivationBlock* info);
  void (*quantize_bf16)(const uint16_t* x, int64_t blocks, int zero, int groups, int8_t* codes,
                        ActivationBlock* info);
  // c [rows, 32] (row stride ldc) = x w^T of a panel, by scheme. codes [rows, 32 * blocks],
  // info [rows, blocks].
  void (*multiply[kWeightSchemes])(const uint8_t* panel, int64_t blocks, const int8_t* codes,
                                   const ActivationBlock* info, int64_t rows, float* c,
                                   int64_t ldc);
};

extern const QuantizedKernels kQuantizedPortable, kQuantizedAvx2, kQuantizedAvxVnni,
    kQuantizedAvx512Vnni;

// Many rows on AMX: weights become bf16 tiles, panel by panel.
struct QuantizedTileKernels {
  // A panel as bf16 tiles of B: [blocks][2 tiles of 16 columns][16 pairs of k][16 columns][2].
  void (*dequantize[kWeightSchemes])(const uint8_t* panel, int64_t blocks, uint16_t* tiles);
  // c [rows, 32 * panels] (row stride ldc) = x w^T; x bf16 [rows, 32 * blocks] (row stride
  // x_stride), rows a multiple of 16; panels of tiles one after the other.
  void (*multiply)(const uint16_t* x, int64_t x_stride, int64_t rows, const uint16_t* tiles,
                   int64_t panels, int64_t blocks, float* c, int64_t ldc);
  void (*enter)();
  void (*leave)();
};

extern const QuantizedTileKernels kQuantizedAmx;

}  // namespace longgen
