// The tile instructions of AMX, and the same in software where LONGGEN_EMULATE_AMX is defined, so
// that code written for tiles is tested on any processor with AVX-512. See simd.h on what may
// include this: files named *_amx.cpp.
//
// A thread has 8 tile registers of up to 16 rows x 64 bytes. For a sum C (16 x 16 of 32 bits) A
// holds 16 rows x 16 units of depth as stored row by row, B 16 units of depth x 16 columns; a unit
// is 32 bits: two bf16 or four int8 of neighbouring depth. Tile numbers are template arguments.
//
// Written as assembly rather than with the compiler's intrinsics: those take tile numbers as text,
// and GCC 12's neither say that loads read memory nor that the configuration is read whole, so that
// stores before them may be dropped.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "longgen/backend/cpu/simd.h"

namespace longgen {
namespace {
namespace tiles {

constexpr int kRows = 16, kRowBytes = 64, kBytes = kRows * kRowBytes, kCount = 8;

// The operand of LDTILECFG. By default all tiles have all rows and columns.
struct alignas(64) Config {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(Config) == 64);

#if !defined(LONGGEN_EMULATE_AMX)

// Before a thread's first use of tiles; makes them zero. Costs some tens of cycles.
LONGGEN_SIMD void configure(const Config& config = {}) {
  __asm__ volatile("ldtilecfg %0" : : "m"(config) : "memory");
}
// After the last: tiles in use make the system's switching of threads dearer.
LONGGEN_SIMD void release() { __asm__ volatile("tilerelease" : : : "memory"); }

template <int kTile>
LONGGEN_SIMD void zero() {
  __asm__ volatile("tilezero %%tmm%c0" : : "i"(kTile));
}
// Rows begin `stride` bytes apart.
template <int kTile>
LONGGEN_SIMD void load(const void* from, int64_t stride) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2"
                   :
                   : "r"(from), "r"(stride), "i"(kTile)
                   : "memory");
}
// The same, for what will not be read again soon.
template <int kTile>
LONGGEN_SIMD void load_stream(const void* from, int64_t stride) {
  __asm__ volatile("tileloaddt1 (%0,%1,1), %%tmm%c2"
                   :
                   : "r"(from), "r"(stride), "i"(kTile)
                   : "memory");
}
template <int kTile>
LONGGEN_SIMD void store(void* to, int64_t stride) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)"
                   :
                   : "r"(to), "r"(stride), "i"(kTile)
                   : "memory");
}

// C (f32) += A B of bf16.
template <int kC, int kA, int kB>
LONGGEN_SIMD void dot_bf16() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
}
// C (int32) += A B: both signed; A unsigned and B signed.
template <int kC, int kA, int kB>
LONGGEN_SIMD void dot_i8() {
  __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
}
template <int kC, int kA, int kB>
LONGGEN_SIMD void dot_u8_i8() {
  __asm__ volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
}

#else

struct Registers {
  bool configured = false;
  Config config;
  alignas(64) uint8_t data[kCount][kRows][kRowBytes];
};
thread_local Registers registers;

[[maybe_unused]] void configure(const Config& config = {}) {
  registers.configured = true;
  registers.config = config;
  std::memset(registers.data, 0, sizeof registers.data);
}
[[maybe_unused]] void release() { registers.configured = false; }

// As the processor, it refuses what was not configured.
LONGGEN_SIMD const Config& config_of(int tile) {
  if (!registers.configured || registers.config.rows[tile] == 0) __builtin_trap();
  return registers.config;
}

template <int kTile>
LONGGEN_SIMD void zero() {
  config_of(kTile);
  std::memset(registers.data[kTile], 0, kBytes);
}
template <int kTile>
void load(const void* from, int64_t stride) {
  const Config& config = config_of(kTile);
  std::memset(registers.data[kTile], 0, kBytes);
  for (int i = 0; i < config.rows[kTile]; ++i) {
    std::memcpy(registers.data[kTile][i], static_cast<const uint8_t*>(from) + i * stride,
                config.row_bytes[kTile]);
  }
}
template <int kTile>
LONGGEN_SIMD void load_stream(const void* from, int64_t stride) {
  load<kTile>(from, stride);
}
template <int kTile>
void store(void* to, int64_t stride) {
  const Config& config = config_of(kTile);
  for (int i = 0; i < config.rows[kTile]; ++i) {
    std::memcpy(static_cast<uint8_t*>(to) + i * stride, registers.data[kTile][i],
                config.row_bytes[kTile]);
  }
}

LONGGEN_SIMD uint32_t unit(int tile, int row, int64_t i) {
  uint32_t value;
  std::memcpy(&value, registers.data[tile][row] + 4 * i, sizeof value);
  return value;
}
LONGGEN_SIMD __m512i row_of(int tile, int row) {
  return _mm512_load_si512(registers.data[tile][row]);
}

// Even and odd depths are summed apart and joined at the end (Intel's manual, TDPBF16PS).
template <int kC, int kA, int kB>
void dot_bf16() {
  const int rows = config_of(kC).rows[kC];
  const int depth = config_of(kA).row_bytes[kA] / 4;
  config_of(kB);
  const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  for (int i = 0; i < rows; ++i) {
    __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
    for (int k = 0; k < depth; ++k) {
      const uint32_t pair = unit(kA, i, k);
      const __m512i b = row_of(kB, k);
      even = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(pair << 16))),
                             _mm512_castsi512_ps(_mm512_slli_epi32(b, 16)), even);
      odd = _mm512_fmadd_ps(
          _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(pair & 0xffff0000u))),
          _mm512_castsi512_ps(_mm512_and_si512(b, high)), odd);
    }
    float* c = reinterpret_cast<float*>(registers.data[kC][i]);
    _mm512_store_ps(c, _mm512_add_ps(_mm512_load_ps(c), _mm512_add_ps(even, odd)));
  }
}

// Byte j of each unit as int32.
template <bool kSigned>
LONGGEN_SIMD __m512i byte_of(__m512i units, int j) {
  const __m512i top = _mm512_slli_epi32(units, static_cast<unsigned>(24 - 8 * j));
  return kSigned ? _mm512_srai_epi32(top, 24) : _mm512_srli_epi32(top, 24);
}
template <int kC, int kA, int kB, bool kSignedA>
LONGGEN_SIMD void dot_bytes() {
  const int rows = config_of(kC).rows[kC];
  const int depth = config_of(kA).row_bytes[kA] / 4;
  config_of(kB);
  for (int i = 0; i < rows; ++i) {
    __m512i sum = row_of(kC, i);
    for (int k = 0; k < depth; ++k) {
      const __m512i a = _mm512_set1_epi32(static_cast<int>(unit(kA, i, k))), b = row_of(kB, k);
      for (int j = 0; j < 4; ++j) {
        sum =
            _mm512_add_epi32(sum, _mm512_mullo_epi32(byte_of<kSignedA>(a, j), byte_of<true>(b, j)));
      }
    }
    _mm512_store_si512(registers.data[kC][i], sum);
  }
}
template <int kC, int kA, int kB>
void dot_i8() {
  dot_bytes<kC, kA, kB, true>();
}
template <int kC, int kA, int kB>
void dot_u8_i8() {
  dot_bytes<kC, kA, kB, false>();
}

#endif

}  // namespace tiles
}  // namespace
}  // namespace longgen
