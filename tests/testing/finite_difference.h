// Gradients against central differences, in fp64.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "longgen/base/rng.h"
#include "longgen/tensor/tensor.h"

namespace longgen::testing {

// Numbers that own their memory, normally distributed.
class RandomTensor {
 public:
  RandomTensor(std::initializer_list<int64_t> shape, uint64_t seed, double deviation = 1)
      : values_(static_cast<size_t>(Tensor(nullptr, DType::kF64, shape).numel())),
        tensor_(values_.data(), DType::kF64, shape) {
    Rng rng(seed, 0);
    for (double& value : values_) value = deviation * rng.normal();
  }
  RandomTensor(const RandomTensor&) = delete;
  RandomTensor& operator=(const RandomTensor&) = delete;

  operator const Tensor&() const { return tensor_; }
  const Tensor& tensor() const { return tensor_; }
  std::vector<double>& values() { return values_; }
  const std::vector<double>& values() const { return values_; }
  void fill(double value) { values_.assign(values_.size(), value); }

 private:
  std::vector<double> values_;
  Tensor tensor_;
};

inline double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// `gradient` is d f / d x for every `step`-th element of x. With h = 1e-5 the truncation (h^2) and
// the rounding (2e-16 |f| / h) of a central difference are both near 1e-10; a bound of 1e-7 of the
// largest element leaves room for third derivatives and for |f| in the thousands.
inline void expect_gradient(const std::string& name, std::span<double> x,
                            std::span<const double> gradient, const std::function<double()>& f,
                            double bound = 1e-7, size_t step = 1) {
  ASSERT_EQ(x.size(), gradient.size()) << name;
  constexpr double h = 1e-5;
  double largest = 0, worst = 0;
  for (const double g : gradient) largest = std::max(largest, std::abs(g));
  ASSERT_TRUE(std::isfinite(largest)) << name;
  for (size_t i = 0; i < x.size(); i += step) {
    const double kept = x[i];
    x[i] = kept + h;
    const double above = f();
    x[i] = kept - h;
    const double below = f();
    x[i] = kept;
    worst = std::max(worst, std::abs((above - below) / (2 * h) - gradient[i]));
  }
  EXPECT_LE(worst, bound * std::max(largest, 1.0)) << name;
}

}  // namespace longgen::testing
