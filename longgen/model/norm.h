// RMS or layer normalisation over the last dimension.
#pragma once

#include <string>

#include "longgen/backend/backend.h"
#include "longgen/model/parameter.h"

namespace longgen::model {

class Norm {
 public:
  Norm() = default;
  // Parameters `name`.weight and, where the model has it, `name`.bias.
  Norm(const ParameterSet& weights, const std::string& name, NormKind kind, double eps);

  bool defined() const { return weight_.value.defined(); }

  // stats acc [rows, 2], undefined when no backward follows.
  void forward(Backend& backend, const Tensor& out, const Tensor& stats, const Tensor& x) const;
  // dx (+)= the gradient; dx may be dy when nothing is accumulated into it.
  void backward(Backend& backend, const ParameterSet& gradients, const Tensor& dx,
                bool accumulate_dx, const Tensor& dy, const Tensor& x, const Tensor& stats) const;

 private:
  Parameter weight_, bias_;
  NormKind kind_ = NormKind::kRms;
  double eps_ = 0;
};

}  // namespace longgen::model
