// How long a piece of work takes: the median over repeats, and how far the repeats spread.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "longgen/backend/backend.h"

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
// Seconds of one call of `call`, made `calls` times in a row. Where calls are queued on a device
// they are one step, started as a graph and timed by the device's clock, so that nothing counts but
// what runs there; else a repeat is the wall time of all. Warms up.
Timing measure_calls(Backend& backend, const std::function<void()>& call, int calls,
                     const Repeats& repeats);
// The same for a call that may not be part of a step.
Timing measure_call(Backend& backend, const std::function<void()>& call, const Repeats& repeats);
// Several calls in turns: a round makes each as often as fills the time that the longest takes for
// one, so that whatever disturbs a machine disturbs all of them for as long. `repeats` are rounds.
// Returns for each call the mean seconds of every round, in their order. Warms up.
std::vector<std::vector<double>> measure_in_turns(Backend& backend,
                                                  std::span<const std::function<void()>> calls,
                                                  const Repeats& repeats);
// From times that were taken elsewhere; at least one.
Timing timing_of(std::vector<double> seconds);

}  // namespace longgen::bench
