// How long a piece of work takes: the median over repeats, and how far the repeats spread.
#pragma once

#include <functional>
#include <vector>

namespace longgen::bench {

struct Repeats {
  int least = 3, most = 50;
  double seconds = 1;  // no further repeat once the measured ones took this long together
};

struct Timing {
  std::vector<double> seconds;  // of each repeat, ascending

  double median() const;
  double best() const { return seconds.front(); }
  double total() const;
  // Half the distance of the quartiles over the median: robust against a repeat that was disturbed.
  double spread() const;
};

// Calls `work` `repeats` times. Warm it up before.
Timing measure(const std::function<void()>& work, const Repeats& repeats);
// From times that were taken elsewhere; at least one.
Timing timing_of(std::vector<double> seconds);

}  // namespace longgen::bench
