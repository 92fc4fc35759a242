#include "bench/measurement.h"

#include "longgen/backend/profile/profile.h"

namespace longgen::bench {

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
