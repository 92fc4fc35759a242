// Mean and standard error of scores.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace longgen::eval {

struct Tally {
  int64_t count = 0;
  double sum = 0, squares = 0;

  void add(double value) {
    ++count;
    sum += value;
    squares += value * value;
  }
  // 0 for no values.
  double mean() const { return count > 0 ? sum / static_cast<double>(count) : 0; }
  // Of the mean, from the sample's own spread; 0 for fewer than two values.
  double standard_error() const {
    if (count < 2) return 0;
    const auto n = static_cast<double>(count);
    return std::sqrt(std::max(squares / n - mean() * mean(), 0.0) / (n - 1));
  }
};

}  // namespace longgen::eval
