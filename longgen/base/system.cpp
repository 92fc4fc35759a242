#include "longgen/base/system.h"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <limits>
#include <string_view>

namespace longgen {
namespace {

// "Key:   123 kB" lines of a /proc file; -1 when absent.
int64_t proc_kilobytes(const char* path, std::string_view key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.compare(0, key.size(), key) == 0 && line.size() > key.size() &&
        line[key.size()] == ':') {
      return std::stoll(line.substr(key.size() + 1));
    }
  }
  return -1;
}

// "key number" lines, as in memory.stat; 0 when absent.
int64_t number_of(const char* path, std::string_view key) {
  std::ifstream file(path);
  std::string name;
  for (int64_t value = 0; file >> name >> value;) {
    if (name == key) return value;
  }
  return 0;
}

// The number in a one-line file; -1 when absent or "max".
int64_t number_in(const char* path) {
  std::ifstream file(path);
  int64_t value = -1;
  return file >> value ? value : -1;
}

}  // namespace

int64_t resident_bytes() { return proc_kilobytes("/proc/self/status", "VmRSS") * 1024; }

int64_t peak_resident_bytes() { return proc_kilobytes("/proc/self/status", "VmHWM") * 1024; }

// Writing 5 to clear_refs sets VmHWM to VmRSS (proc(5)).
void reset_peak_resident() { std::ofstream("/proc/self/clear_refs") << 5; }

int64_t available_memory_bytes() {
  const int64_t available = proc_kilobytes("/proc/meminfo", "MemAvailable");
  int64_t bytes = available < 0 ? std::numeric_limits<int64_t>::max() : available * 1024;
  const int64_t limit = number_in("/sys/fs/cgroup/memory.max");
  const int64_t used = number_in("/sys/fs/cgroup/memory.current");
  if (limit >= 0 && used >= 0) {
    // Cached files count as used, but make room when memory is asked for.
    constexpr const char* kStat = "/sys/fs/cgroup/memory.stat";
    const int64_t cached = number_of(kStat, "inactive_file") + number_of(kStat, "active_file");
    bytes = std::min(bytes, std::clamp<int64_t>(limit - used + cached, 0, limit));
  }
  return bytes;
}

double monotonic_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace longgen
