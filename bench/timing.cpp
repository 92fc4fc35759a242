#include "bench/timing.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "bench/measurement.h"
#include "longgen/backend/device_queue.h"
#include "longgen/base/error.h"
#include "longgen/base/system.h"

namespace longgen::bench {
namespace {

// Linear between neighbours; `sorted` is not empty.
double quantile(const std::vector<double>& sorted, double q) {
  const double at = q * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (at - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

}  // namespace

double Timing::median() const { return quantile(seconds, 0.5); }

double Timing::total() const { return std::accumulate(seconds.begin(), seconds.end(), 0.0); }

double Timing::spread() const {
  return (quantile(seconds, 0.75) - quantile(seconds, 0.25)) / (2 * median());
}

Timing timing_of(std::vector<double> seconds) {
  require(!seconds.empty(), "a measurement without repeats");
  std::sort(seconds.begin(), seconds.end());
  return {std::move(seconds)};
}

namespace {

bool enough(const Repeats& repeats, size_t done, double seconds) {
  const auto n = static_cast<int>(done);
  return n >= std::max(repeats.most, 1) || (n >= repeats.least && seconds >= repeats.seconds);
}

// `once` returns seconds.
Timing repeat(const std::function<double()>& once, const Repeats& repeats) {
  std::vector<double> seconds;
  double sum = 0;
  while (!enough(repeats, seconds.size(), sum)) {
    // A clock tick at least, so that rates stay finite.
    seconds.push_back(std::max(once(), 1e-9));
    sum += seconds.back();
  }
  return timing_of(std::move(seconds));
}

}  // namespace

Timing measure(const std::function<void()>& work, const Repeats& repeats) {
  return repeat(
      [&] {
        const double start = monotonic_seconds();
        work();
        return monotonic_seconds() - start;
      },
      repeats);
}

Timing measure_calls(Backend& backend, const std::function<void()>& call, int calls,
                     const Repeats& repeats) {
  const auto all = [&] {
    for (int i = 0; i < calls; ++i) call();
  };
  DeviceQueue* queue = device_queue(backend);
  Timing timing;
  if (queue == nullptr) {
    all();
    backend.synchronize();
    start_breakdown(backend);
    timing = measure(
        [&] {
          all();
          backend.synchronize();
        },
        repeats);
  } else {
    const auto once = [&] {
      queue->step(/*repeats=*/true, all);
      return queue->last_step_seconds();
    };
    for (int i = 0; i < 3; ++i) once();  // as calls, captured, as a graph
    timing = repeat(once, repeats);
  }
  for (double& seconds : timing.seconds) seconds /= calls;
  return timing;
}

std::vector<std::vector<double>> measure_in_turns(Backend& backend,
                                                  std::span<const std::function<void()>> calls,
                                                  const Repeats& repeats) {
  DeviceQueue* queue = device_queue(backend);
  const auto mean_of = [&](const std::function<void()>& call, int64_t times) {
    const auto all = [&] {
      for (int64_t i = 0; i < times; ++i) call();
    };
    const double start = monotonic_seconds();
    double seconds = 0;
    if (queue != nullptr) {
      seconds = queue->seconds(all);
    } else {
      all();
      seconds = monotonic_seconds() - start;
    }
    return std::max(seconds, 1e-9) / static_cast<double>(times);
  };
  std::vector<double> once;
  for (const auto& call : calls) once.push_back(mean_of(call, 1));
  const double longest = once.empty() ? 0 : *std::max_element(once.begin(), once.end());
  std::vector<std::vector<double>> rounds(calls.size());
  for (double sum = 0; !calls.empty() && !enough(repeats, rounds[0].size(), sum); sum += longest) {
    for (size_t i = 0; i < calls.size(); ++i) {
      const int64_t times = std::max<int64_t>(std::llround(longest / once[i]), 1);
      rounds[i].push_back(mean_of(calls[i], times));
    }
  }
  return rounds;
}

Timing measure_call(Backend& backend, const std::function<void()>& call, const Repeats& repeats) {
  DeviceQueue* queue = device_queue(backend);
  if (queue == nullptr) return measure_calls(backend, call, 1, repeats);
  for (int i = 0; i < 2; ++i) queue->seconds(call);
  return repeat([&] { return queue->seconds(call); }, repeats);
}

}  // namespace longgen::bench
