// Rows of bf16 in 16-byte pieces: what the kernels of wide_rows*.cu share.
#pragma once

#include "longgen/backend/cuda/alignment.h"
#include "longgen/backend/cuda/device_math.cuh"

namespace longgen::cuda {

constexpr int kVector = 8;  // bf16 of 16 bytes

struct Floats8 {
  float v[kVector];
};

__device__ inline uint4 fetch8(const __nv_bfloat16* p) {
  return *reinterpret_cast<const uint4*>(p);
}

__device__ inline Floats8 floats8(const uint4& raw) {
  const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
  Floats8 out;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    out.v[2 * i] = __uint_as_float(words[i] << 16);
    out.v[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
  return out;
}

__device__ inline Floats8 load8(const __nv_bfloat16* p) { return floats8(fetch8(p)); }

__device__ inline void store8(__nv_bfloat16* p, const Floats8& x) {
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(x.v[2 * i], x.v[2 * i + 1]);
    words[i] = *reinterpret_cast<const uint32_t*>(&pair);
  }
  *reinterpret_cast<uint4*>(p) = make_uint4(words[0], words[1], words[2], words[3]);
}

// Whether every row begins at a multiple of 16 bytes and is a multiple of that long. Null data
// stands for no operand.
inline bool is_wide(const Rows& x) { return in_pieces(x, kVector, sizeof(__nv_bfloat16)); }

}  // namespace longgen::cuda
