// Activations and their slopes.
#pragma once

namespace longgen::cuda {

struct ValueSlope {
  float value, slope;
};
// The order of longgen::Activation: SiLU, GELU, GELU by tanh, ReLU.
__device__ inline ValueSlope activate(int activation, float x) {
  switch (activation) {
    case 0: {
      const float s = 1 / (1 + __expf(-x));
      return {x * s, s * (1 + x * (1 - s))};
    }
    case 1: {
      const float phi = 0.5f * (1 + erff(x * 0.70710678f));
      return {x * phi, phi + x * 0.39894228f * __expf(-0.5f * x * x)};
    }
    case 2: {
      const float u = 0.79788456f * (x + 0.044715f * x * x * x), t = tanhf(u);
      const float du = 0.79788456f * (1 + 3 * 0.044715f * x * x);
      return {0.5f * x * (1 + t), 0.5f * (1 + t) + 0.5f * x * (1 - t * t) * du};
    }
    default:
      return {x > 0 ? x : 0, x > 0 ? 1.f : 0.f};
  }
}

}  // namespace longgen::cuda
