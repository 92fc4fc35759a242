// How much memory a piece of work took.
#pragma once

#include <cstdint>

#include "longgen/backend/backend.h"

namespace longgen {

// The most memory that was taken since this was made: by the whole process on a host (from
// reset_peak_resident() on), on the device where the backend has one, which gives nothing back
// while work is under way.
class MemoryUse {
 public:
  explicit MemoryUse(Backend& backend);
  // With what was taken on a device before, which the caller knows of.
  int64_t bytes(int64_t before) const;

 private:
  Backend& backend_;
  int64_t available_ = 0;
};

}  // namespace longgen
