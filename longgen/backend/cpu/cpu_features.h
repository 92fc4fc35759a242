// Which instruction sets the processor and the system have.
#pragma once

#include <string_view>
#include <vector>

#include "longgen/backend/backend.h"

namespace longgen {

// "portable", "avx2", "avx512", "avx512bf16", "amx", "auto": as LONGGEN_CPU spells them.
std::string_view cpu_isa_name(CpuIsa isa);

// Whether code of this set may run here: the processor has it, and the system saves its registers.
// Asking for kAmx also asks the system for the permission to use tiles (for the whole process).
bool cpu_has(CpuIsa isa);

// Built with LONGGEN_EMULATE_AMX: kAmx then computes its tiles in software (for tests), wherever
// kAvx512Bf16 runs, and kAuto never picks it.
bool amx_is_emulated();

// Dot products of bytes (vpdpbusd), which some processors with kAvx2 or kAvx512 have and others do
// not.
bool cpu_has_avx_vnni();
bool cpu_has_avx512_vnni();

// Everything that cpu_has() accepts, kPortable first, the best last.
std::vector<CpuIsa> available_cpu_isas();

// kAuto becomes what LONGGEN_CPU names, or the best available. Throws Error when the one asked for
// is absent here, UsageError when LONGGEN_CPU is no name of one.
CpuIsa resolve_cpu_isa(CpuIsa requested);

// The f32 sets in order: what an operation without bf16 instructions uses (avx512 for the three
// best).
constexpr CpuIsa f32_isa(CpuIsa isa) { return isa > CpuIsa::kAvx512 ? CpuIsa::kAvx512 : isa; }

}  // namespace longgen
