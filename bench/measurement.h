// One line of a benchmark's table.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bench/timing.h"
#include "longgen/backend/backend.h"

namespace longgen::bench {

struct Measurement {
  std::string name;             // for people: "8K full forward"
  nlohmann::json parameters;    // what was run, as an object
  Timing timing;                // of one call
  double tokens = 0;            // a call; 0: does not apply
  double flops = 0;             // a call, by unmasked pairs
  double bytes = 0;             // a call must read this much from memory; 0: does not apply
  int64_t resident_bytes = 0;   // the most while it ran; 0: not looked at
  DType dtype = DType::kF32;    // whose peak it is held against
  nlohmann::json breakdown;     // null, or one object an operation and shape, the longest first
  std::string breakdown_table;  // the same for people
  std::string memory_table;     // what was planned, for people, each line ended; empty: nothing

  double peak_flops = 0;  // a second, measured in turn with this row; 0: the machine's peak

  double per_second(double amount) const { return amount / timing.median(); }
};

// Where `backend` is a ProfilingBackend: the first forgets what was counted so far, the second
// fills in the row's breakdown. `wall_seconds`: what the repeats took together. Otherwise they do
// nothing.
void start_breakdown(Backend& backend);
void finish_breakdown(Backend& backend, double wall_seconds, Measurement& measurement);

}  // namespace longgen::bench
