// What the operating system says of this process and machine.
#pragma once

#include <cstdint>
#include <string>

namespace longgen {

int64_t resident_bytes();       // now (VmRSS)
int64_t peak_resident_bytes();  // the most so far (VmHWM)
// Starts the count of peak_resident_bytes() anew where the system lets a process do so; otherwise
// it goes on from the process's start.
void reset_peak_resident();
// Memory that may still be used: the least of MemAvailable and the cgroup's limit less its use
// (without cached files).
int64_t available_memory_bytes();
double monotonic_seconds();

}  // namespace longgen
