#include "longgen/backend/cpu/cpu_features.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "longgen/base/error.h"

namespace longgen {
namespace {

constexpr std::array kBestLast = {CpuIsa::kPortable, CpuIsa::kAvx2, CpuIsa::kAvx512,
                                  CpuIsa::kAvx512Bf16, CpuIsa::kAmx};

struct Registers {
  uint32_t a = 0, b = 0, c = 0, d = 0;
};

Registers cpuid(uint32_t leaf, uint32_t subleaf) {
  Registers r;
  if (!__get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d)) return {};
  return r;
}

bool all_bits(uint32_t value, uint32_t bits) { return (value & bits) == bits; }

// The register files that the system saves (XCR0); 0 when it saves none beyond the basic ones.
uint64_t saved_registers() {
  if (!(cpuid(1, 0).c & bit_OSXSAVE)) return 0;
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

constexpr uint64_t kSavesAvx = 0x6, kSavesAvx512 = 0xe6, kSavesTiles = 0x60000;

// Tiles are switched on per process; the kernel refuses where it or the processor lacks them.
bool permit_tiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

bool has_avx2() {
  return (saved_registers() & kSavesAvx) == kSavesAvx &&
         all_bits(cpuid(1, 0).c, bit_AVX | bit_FMA | bit_F16C) && all_bits(cpuid(7, 0).b, bit_AVX2);
}

bool has_avx512() {
  return has_avx2() && (saved_registers() & kSavesAvx512) == kSavesAvx512 &&
         all_bits(cpuid(7, 0).b, bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL);
}

bool has_avx512_bf16() {
  constexpr uint32_t kBf16 = 1u << 5;
  return has_avx512() && all_bits(cpuid(7, 1).a, kBf16);
}

bool has_amx() {
  if (amx_is_emulated()) return has_avx512_bf16();
  constexpr uint32_t kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
  return has_avx512_bf16() && all_bits(cpuid(7, 0).d, kAmxBf16 | kAmxTile) &&
         (saved_registers() & kSavesTiles) == kSavesTiles && permit_tiles();
}

bool detect(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kAuto:
    case CpuIsa::kPortable:
      return true;
    case CpuIsa::kAvx2:
      return has_avx2();
    case CpuIsa::kAvx512:
      return has_avx512();
    case CpuIsa::kAvx512Bf16:
      return has_avx512_bf16();
    case CpuIsa::kAmx:
      return has_amx();
  }
  return false;
}

std::string available_names() {
  std::string names;
  for (const CpuIsa isa : available_cpu_isas()) {
    names += std::string(names.empty() ? "" : ", ") + std::string(cpu_isa_name(isa));
  }
  return names;
}

CpuIsa isa_from_environment() {
  const char* text = std::getenv("LONGGEN_CPU");
  if (!text || !*text) return CpuIsa::kAuto;
  if (text == cpu_isa_name(CpuIsa::kAuto)) return CpuIsa::kAuto;
  for (const CpuIsa isa : kBestLast) {
    if (text == cpu_isa_name(isa)) return isa;
  }
  fail_usage(
      "LONGGEN_CPU={} is no instruction set; use portable, avx2, avx512, avx512bf16, amx or "
      "auto",
      text);
}

}  // namespace

std::string_view cpu_isa_name(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kAuto:
      return "auto";
    case CpuIsa::kPortable:
      return "portable";
    case CpuIsa::kAvx2:
      return "avx2";
    case CpuIsa::kAvx512:
      return "avx512";
    case CpuIsa::kAvx512Bf16:
      return "avx512bf16";
    case CpuIsa::kAmx:
      return "amx";
  }
  return "unknown";
}

bool amx_is_emulated() {
#if defined(LONGGEN_EMULATE_AMX)
  return true;
#else
  return false;
#endif
}

bool cpu_has(CpuIsa isa) { return detect(isa); }

bool cpu_has_avx_vnni() {
  constexpr uint32_t kAvxVnni = 1u << 4;
  return has_avx2() && all_bits(cpuid(7, 1).a, kAvxVnni);
}

bool cpu_has_avx512_vnni() {
  constexpr uint32_t kAvx512Vnni = 1u << 11;
  return has_avx512() && all_bits(cpuid(7, 0).c, kAvx512Vnni);
}

std::vector<CpuIsa> available_cpu_isas() {
  std::vector<CpuIsa> isas;
  for (const CpuIsa isa : kBestLast) {
    if (cpu_has(isa)) isas.push_back(isa);
  }
  return isas;
}

CpuIsa resolve_cpu_isa(CpuIsa requested) {
  if (requested == CpuIsa::kAuto) requested = isa_from_environment();
  if (requested == CpuIsa::kAuto) {
    std::vector<CpuIsa> isas = available_cpu_isas();
    if (amx_is_emulated() && isas.back() == CpuIsa::kAmx) isas.pop_back();
    return isas.back();
  }
  require(cpu_has(requested),
          "instruction set {} is not available here (the processor or the system lacks it); "
          "available: {}",
          cpu_isa_name(requested), available_names());
  return requested;
}

}  // namespace longgen
