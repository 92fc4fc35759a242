#include "bench/measurement.h"

#include <fstream>

#include "longgen/backend/profile/profile.h"
#include "longgen/base/system.h"

namespace longgen::bench {

// Linux: writing 5 to clear_refs sets VmHWM to VmRSS (proc(5)).
void reset_peak_resident() { std::ofstream("/proc/self/clear_refs") << 5; }

MemoryUse::MemoryUse(Backend& backend)
    : backend_(backend), available_(backend.memory().available_bytes()) {
  reset_peak_resident();
}

int64_t MemoryUse::bytes(int64_t before) const {
  if (backend_.memory().device() == Device::kHost) return peak_resident_bytes();
  return before + available_ - backend_.memory().available_bytes();
}

void start_breakdown(Backend& backend) {
  if (auto* profile = dynamic_cast<ProfilingBackend*>(&backend)) profile->reset();
}

void finish_breakdown(Backend& backend, double wall_seconds, Measurement& m) {
  const auto* profile = dynamic_cast<ProfilingBackend*>(&backend);
  if (profile == nullptr) return;
  m.breakdown = nlohmann::json::array();
  for (const ProfileEntry& entry : profile->entries()) {
    m.breakdown.push_back({{"operation", entry.operation},
                           {"shape", entry.shape},
                           {"calls", entry.calls},
                           {"seconds", entry.seconds},
                           {"flops", entry.flops},
                           {"bytes", entry.bytes_moved}});
  }
  m.breakdown_table = profile->table(wall_seconds);
}

}  // namespace longgen::bench
