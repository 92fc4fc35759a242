// A backend that hands every call to another one and keeps the time of each operation and shape:
// where a prefill, a decode step or a training step spends its time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "longgen/backend/backend.h"

namespace longgen {

// The calls of one operation with operands of one shape.
struct ProfileEntry {
  std::string operation;  // the Backend's name for it
  std::string shape;      // products "rows x n x k" as in y [rows, n] = x [rows, k] w [n, k]^T
  int64_t calls = 0;
  double seconds = 0;
  double flops = 0;         // as MetaCounts counts them: attention by unmasked pairs
  double dense_flops = 0;   // the same with every attention full causal
  int64_t bytes_moved = 0;  // each operand once
};

class ProfilingBackend : public Backend {
 public:
  // The longest first.
  virtual std::vector<ProfileEntry> entries() const = 0;
  virtual void reset() = 0;
  // The entries, one a line, under a headline and above the total: seconds, share of them, calls,
  // FLOP/s and bytes/s. `wall_seconds`, where given, adds what was spent outside the backend.
  virtual std::string table(double wall_seconds = 0) const = 0;
};

// `inner` is only referred to. Calls of operations that fail are not counted.
std::unique_ptr<ProfilingBackend> make_profiling_backend(Backend& inner);

}  // namespace longgen
