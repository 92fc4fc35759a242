// Ctrl-C and SIGTERM ask for a stop between steps instead of killing the process.
#pragma once

namespace longgen::train {

class InterruptGuard {
 public:
  // Takes over SIGINT and SIGTERM. A second signal of a kind kills as usual.
  InterruptGuard();
  ~InterruptGuard();  // gives both signals their default effect again
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  // Whether a signal came since the guard was made.
  bool requested() const;
};

}  // namespace longgen::train
