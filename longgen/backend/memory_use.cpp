#include "longgen/backend/memory_use.h"

#include "longgen/base/system.h"

namespace longgen {

MemoryUse::MemoryUse(Backend& backend)
    : backend_(backend), available_(backend.memory().available_bytes()) {
  reset_peak_resident();
}

int64_t MemoryUse::bytes(int64_t before) const {
  if (backend_.memory().device() == Device::kHost) return peak_resident_bytes();
  return before + available_ - backend_.memory().available_bytes();
}

}  // namespace longgen
