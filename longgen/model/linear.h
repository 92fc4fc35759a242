// y = x w^T + bias. Quantised weights, adapters and tensor parallelism enter here.
#pragma once

#include <initializer_list>
#include <string>

#include "longgen/backend/backend.h"
#include "longgen/model/parameter.h"

namespace longgen::model {

class Linear {
 public:
  // y [T, n] of one of several products of the same x.
  struct Output {
    const Linear& linear;
    Tensor y;
  };

  Linear() = default;
  // Parameters `name`.weight and, where the model has it, `name`.bias.
  Linear(const ParameterSet& weights, const std::string& name);

  bool defined() const { return weight_.value.defined(); }

  // y [T, n] from x [T, k]; accumulate adds to y (a residual stream).
  void forward(Backend& backend, const Tensor& y, const Tensor& x, bool accumulate = false) const;
  // y = base + x w^T: a residual stream that goes on in other memory.
  void forward_onto(Backend& backend, const Tensor& y, const Tensor& base, const Tensor& x) const {
    backend.linear_forward_onto(y, base, x, view_, bias_.value);
  }
  // All of them: one product where weights lie one after the other in memory, outputs are columns
  // side by side, and nothing has a bias.
  static void forward_all(Backend& backend, std::initializer_list<Output> outputs, const Tensor& x);
  // dx [T, k] from dy [T, n]; gradients of the weight and bias are added to, unless frozen.
  void backward(Backend& backend, const ParameterSet& gradients, const Tensor& dx, const Tensor& dy,
                const Tensor& x, bool accumulate_dx = false) const;
  // Its halves, for callers with something to do between them.
  void backward_input(Backend& backend, const Tensor& dx, const Tensor& dy,
                      bool accumulate_dx = false) const {
    backend.linear_backward_input(dx, dy, view_, accumulate_dx);
  }
  void backward_parameters(Backend& backend, const ParameterSet& gradients, const Tensor& dy,
                           const Tensor& x) const;
  // Backward of several products of the same x: outputs' y hold the gradients, dx is their sum. The
  // gradients of the weights are one product where forward_all() could join them and they lie one
  // after the other, too. That of dx would be deeper, not larger, and is not.
  static void backward_all(Backend& backend, const ParameterSet& gradients, const Tensor& dx,
                           std::initializer_list<Output> outputs, const Tensor& x);

 private:
  Parameter weight_, bias_;
  WeightView view_;
};

}  // namespace longgen::model
