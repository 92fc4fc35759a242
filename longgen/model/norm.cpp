#include "longgen/model/norm.h"

namespace longgen::model {

Norm::Norm(const ParameterSet& weights, const std::string& name, NormKind kind, double eps)
    : weight_(Parameter::find(weights, name + ".weight")),
      bias_(Parameter::find(weights, name + ".bias")),
      kind_(kind),
      eps_(eps) {
  require(weight_.value.defined(), "the model has no parameter {}.weight", name);
}

void Norm::forward(Backend& backend, const Tensor& out, const Tensor& stats,
                   const Tensor& x) const {
  backend.norm_forward(kind_, out, stats, x, weight_.value, bias_.value, eps_);
}

void Norm::backward(Backend& backend, const ParameterSet& gradients, const Tensor& dx,
                    bool accumulate_dx, const Tensor& dy, const Tensor& x,
                    const Tensor& stats) const {
  backend.norm_backward(kind_, dx, accumulate_dx, weight_.gradient(gradients),
                        bias_.gradient(gradients), dy, x, stats, weight_.value);
}

}  // namespace longgen::model
