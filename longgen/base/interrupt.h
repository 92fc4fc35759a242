// Ctrl-C and SIGTERM ask for a stop where the work can be left, instead of killing the process.
#pragma once

#include "longgen/base/error.h"

namespace longgen {

class InterruptGuard {
 public:
  // Takes over SIGINT and SIGTERM. Repeats within half a second are one request (`timeout` signals
  // the process and then its group; an impatient finger comes twice); a later signal kills.
  // `notice` is written to stderr when the first one comes; it outlives the guard.
  explicit InterruptGuard(const char* notice = "");
  ~InterruptGuard();  // gives both signals their default effect again
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  // Whether a signal came since the guard was made.
  bool requested() const;
};

// Thrown to leave work that was asked to stop and cannot be kept half done.
class Interrupted : public Error {
 public:
  Interrupted() : Error("interrupted") {}
};

}  // namespace longgen
