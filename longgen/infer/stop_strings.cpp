#include "longgen/infer/stop_strings.h"

#include <algorithm>
#include <utility>

#include "longgen/base/error.h"

namespace longgen::infer {

StopStrings::StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {
  for (const std::string& stop : stops_) {
    if (stop.empty()) fail_usage("a stop string is empty");
  }
}

std::string StopStrings::push(std::string_view piece) {
  if (stopped_) return {};
  pending_ += piece;
  size_t first = std::string::npos;
  for (const std::string& stop : stops_) first = std::min(first, pending_.find(stop));
  if (first != std::string::npos) {
    stopped_ = true;
    return std::exchange(pending_, {}).substr(0, first);
  }
  // Keep the longest suffix that is a proper prefix of a stop string.
  size_t keep = 0;
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(stop.size() - 1, pending_.size()); n > keep; --n) {
      if (pending_.compare(pending_.size() - n, n, stop, 0, n) == 0) keep = n;
    }
  }
  std::string shown = pending_.substr(0, pending_.size() - keep);
  pending_.erase(0, pending_.size() - keep);
  return shown;
}

std::string StopStrings::finish() { return stopped_ ? std::string() : std::exchange(pending_, {}); }

}  // namespace longgen::infer
