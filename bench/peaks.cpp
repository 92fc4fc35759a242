#include "bench/peaks.h"

#include <cpuid.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "longgen/backend/cpu/cpu_features.h"
#include "longgen/base/system.h"
#include "longgen/tensor/arena.h"

namespace longgen::bench {
namespace {

// Each loop repeats independent operations on registers that hold zeros. In assembly, so that the
// file needs no instruction set of its own and no optimiser shortens the work; the registers above
// 15 are never used by baseline code.

#define LONGGEN_VECTOR_REGISTERS                                                           \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", \
      "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "cc"

void sse2_multiply_add(int64_t n) {
  asm volatile(
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n\t"
      "xorps %%xmm\\r, %%xmm\\r\n\t"
      ".endr\n\t"
      "1:\n\t"
      ".irp r,0,1,2,3,4,5,6\n\t"
      "mulps %%xmm14, %%xmm\\r\n\t"
      ".endr\n\t"
      ".irp r,7,8,9,10,11,12,13\n\t"
      "addps %%xmm15, %%xmm\\r\n\t"
      ".endr\n\t"
      "decq %0\n\t"
      "jnz 1b"
      : "+r"(n)
      :
      : LONGGEN_VECTOR_REGISTERS);
}

void avx2_fma(int64_t n) {
  asm volatile(
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n\t"
      "vxorps %%ymm\\r, %%ymm\\r, %%ymm\\r\n\t"
      ".endr\n\t"
      "1:\n\t"
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13\n\t"
      "vfmadd231ps %%ymm14, %%ymm15, %%ymm\\r\n\t"
      ".endr\n\t"
      "decq %0\n\t"
      "jnz 1b\n\t"
      "vzeroupper"
      : "+r"(n)
      :
      : LONGGEN_VECTOR_REGISTERS);
}

#define LONGGEN_AVX512_LOOP(instruction)                             \
  asm volatile(                                                      \
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,30,31\n\t"       \
      "vpxord %%zmm\\r, %%zmm\\r, %%zmm\\r\n\t"                      \
      ".endr\n\t"                                                    \
      "1:\n\t"                                                       \
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n\t" instruction \
      " %%zmm30, %%zmm31, %%zmm\\r\n\t"                              \
      ".endr\n\t"                                                    \
      "decq %0\n\t"                                                  \
      "jnz 1b\n\t"                                                   \
      "vzeroupper"                                                   \
      : "+r"(n)                                                      \
      :                                                              \
      : LONGGEN_VECTOR_REGISTERS)

void avx512_fma(int64_t n) { LONGGEN_AVX512_LOOP("vfmadd231ps"); }
void avx512_bf16(int64_t n) { LONGGEN_AVX512_LOOP("vdpbf16ps"); }
void avx512_vnni(int64_t n) { LONGGEN_AVX512_LOOP("vpdpbusd"); }

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Accumulators 0-3 from left tiles 4, 5 and right tiles 6, 7: the blocking that products use.
#define LONGGEN_AMX_LOOP(instruction)                                                     \
  const TileConfig config;                                                                \
  asm volatile(                                                                           \
      "ldtilecfg %1\n\t"                                                                  \
      ".irp r,0,1,2,3,4,5,6,7\n\t"                                                        \
      "tilezero %%tmm\\r\n\t"                                                             \
      ".endr\n\t"                                                                         \
      "1:\n\t"                                                                            \
      ".rept 2\n\t" instruction " %%tmm6, %%tmm4, %%tmm0\n\t" instruction                 \
      " %%tmm7, %%tmm4, %%tmm1\n\t" instruction " %%tmm6, %%tmm5, %%tmm2\n\t" instruction \
      " %%tmm7, %%tmm5, %%tmm3\n\t"                                                       \
      ".endr\n\t"                                                                         \
      "decq %0\n\t"                                                                       \
      "jnz 1b\n\t"                                                                        \
      "tilerelease"                                                                       \
      : "+r"(n)                                                                           \
      : "m"(config)                                                                       \
      : "cc")

void amx_bf16(int64_t n) { LONGGEN_AMX_LOOP("tdpbf16ps"); }
void amx_int8(int64_t n) { LONGGEN_AMX_LOOP("tdpbssd"); }

#undef LONGGEN_VECTOR_REGISTERS
#undef LONGGEN_AVX512_LOOP
#undef LONGGEN_AMX_LOOP

bool extended_feature(int reg, uint32_t bit) {
  std::array<uint32_t, 4> r{};
  return __get_cpuid_count(7, 0, &r[0], &r[1], &r[2], &r[3]) && (r[static_cast<size_t>(reg)] & bit);
}

bool has_vnni() { return extended_feature(2, 1u << 11); }
bool has_amx_int8() { return extended_feature(3, 1u << 25); }
bool always() { return true; }

struct Loop {
  const char* name;
  const char* numbers;
  CpuIsa isa;  // the least that has it
  bool (*also)();
  void (*run)(int64_t);
  double flops;  // an iteration
};

constexpr std::array kLoops = {
    Loop{"sse2 mul, add", "f32", CpuIsa::kPortable, always, sse2_multiply_add, 14 * 4},
    Loop{"avx2 fma", "f32", CpuIsa::kAvx2, always, avx2_fma, 14 * 8 * 2},
    Loop{"avx512 fma", "f32", CpuIsa::kAvx512, always, avx512_fma, 16 * 16 * 2},
    Loop{"avx512 vdpbf16ps", "bf16", CpuIsa::kAvx512Bf16, always, avx512_bf16, 16 * 32 * 2},
    Loop{"avx512 vpdpbusd", "int8", CpuIsa::kAvx512, has_vnni, avx512_vnni, 16 * 64 * 2},
    Loop{"amx tdpbf16ps", "bf16", CpuIsa::kAmx, always, amx_bf16, 8 * 16 * 16 * 32 * 2},
    Loop{"amx tdpbssd", "int8", CpuIsa::kAmx, has_amx_int8, amx_int8, 8 * 16 * 16 * 64 * 2},
};

constexpr int kRounds = 16;
constexpr double kRoundSeconds = 0.004;

// Every thread times its own loop, so that one that starts late or is interrupted does not stretch
// the others' time; of some short rounds the best counts.
double flops_per_second(ThreadPool& pool, const Loop& loop) {
  std::vector<double> seconds(static_cast<size_t>(pool.size()));
  const auto rate = [&](int64_t n) {
    pool.for_ranges(pool.size(), [&](int64_t, int64_t, int thread) {
      const double start = monotonic_seconds();
      loop.run(n);
      seconds[static_cast<size_t>(thread)] = monotonic_seconds() - start;
    });
    double sum = 0;
    for (const double each : seconds) sum += loop.flops * static_cast<double>(n) / each;
    return sum;
  };
  int64_t n = 1000;
  double best = rate(n);
  while (*std::min_element(seconds.begin(), seconds.end()) < kRoundSeconds) {
    n *= 2;
    best = rate(n);
  }
  for (int i = 0; i < kRounds; ++i) best = std::max(best, rate(n));
  return best;
}

// The bits of a range, or-ed; `prefetch` asks for lines ahead, which some processors need.
template <bool kPrefetch>
uint64_t read_range(const std::byte* data, int64_t bytes) {
  constexpr int64_t kStep = 256, kAhead = 4096;
  std::array<uint64_t, 8> sum{};
  for (int64_t i = 0; i + kStep <= bytes; i += kStep) {
    if constexpr (kPrefetch) {
      for (int64_t line = 0; line < kStep; line += 64) {
        __builtin_prefetch(data + i + kAhead + line);
      }
    }
    for (int64_t j = 0; j < kStep; j += 64) {
      std::array<uint64_t, 8> words;
      std::memcpy(words.data(), data + i + j, 64);
      for (size_t k = 0; k < 8; ++k) sum[k] |= words[k];
    }
  }
  uint64_t all = 0;
  for (const uint64_t word : sum) all |= word;
  return all;
}

double read_bytes_per_second(ThreadPool& pool) {
  // Several times the largest caches, but never what the work itself needs.
  const int64_t bytes = std::min<int64_t>(int64_t{1} << 30, available_memory_bytes() / 4);
  if (bytes < (int64_t{1} << 26)) return 0;
  HostMemory memory;
  auto* data = static_cast<std::byte*>(memory.allocate(bytes));
  pool.for_ranges(bytes, [&](int64_t begin, int64_t end, int) {
    std::memset(data + begin, 1, static_cast<size_t>(end - begin));
  });
  double best = 0;
  for (int round = 0; round < 6; ++round) {
    const double start = monotonic_seconds();
    pool.for_ranges(bytes, [&](int64_t begin, int64_t end, int) {
      volatile uint64_t sink = round % 2 == 0 ? read_range<false>(data + begin, end - begin)
                                              : read_range<true>(data + begin, end - begin);
      (void)sink;
    });
    best = std::max(best, static_cast<double>(bytes) / (monotonic_seconds() - start));
  }
  memory.deallocate(data, bytes);
  return best;
}

double best_of(const std::vector<ArithmeticPeak>& peaks, std::string_view numbers) {
  double best = 0;
  for (const ArithmeticPeak& peak : peaks) {
    if (peak.numbers == numbers) best = std::max(best, peak.flops);
  }
  return best;
}

}  // namespace

double Peaks::flops(DType dtype) const {
  const double f32 = best_of(arithmetic, "f32");
  return dtype == DType::kBF16 ? std::max(best_of(arithmetic, "bf16"), f32) : f32;
}

Peaks measure_peaks(ThreadPool& pool, CpuIsa isa) {
  Peaks peaks;
  for (const Loop& loop : kLoops) {
    if (loop.isa > isa || !cpu_has(loop.isa) || !loop.also()) continue;
    peaks.arithmetic.push_back({loop.name, loop.numbers, flops_per_second(pool, loop)});
  }
  peaks.read_bytes = read_bytes_per_second(pool);
  return peaks;
}

}  // namespace longgen::bench
