// The activation functions and their derivatives.
#pragma once

#include <cmath>
#include <numbers>

#include "longgen/backend/backend.h"

namespace longgen::reference {

struct ValueAndSlope {
  double value, slope;
};

inline ValueAndSlope activate(Activation act, double x) {
  switch (act) {
    case Activation::kSilu: {
      const double s = 1 / (1 + std::exp(-x));
      return {x * s, s * (1 + x * (1 - s))};
    }
    case Activation::kGelu: {  // x Phi(x)
      const double cdf = 0.5 * (1 + std::erf(x / std::numbers::sqrt2));
      const double pdf = std::exp(-x * x / 2) * std::numbers::inv_sqrtpi / std::numbers::sqrt2;
      return {x * cdf, cdf + x * pdf};
    }
    case Activation::kGeluTanh: {  // Hendrycks and Gimpel, arXiv 1606.08415
      const double a = std::numbers::sqrt2 * std::numbers::inv_sqrtpi, b = 0.044715;
      const double t = std::tanh(a * (x + b * x * x * x));
      return {0.5 * x * (1 + t), 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * a * (1 + 3 * b * x * x)};
    }
    case Activation::kRelu:
      return {x > 0 ? x : 0, x > 0 ? 1.0 : 0.0};
  }
  fail("reference backend: unknown activation {}", static_cast<int>(act));
}

}  // namespace longgen::reference
