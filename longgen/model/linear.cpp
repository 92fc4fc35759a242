#include "longgen/model/linear.h"

namespace longgen::model {

Linear::Linear(const ParameterSet& weights, const std::string& name)
    : weight_(Parameter::find(weights, name + ".weight")),
      bias_(Parameter::find(weights, name + ".bias")) {
  require(weight_.value.defined(), "the model has no parameter {}.weight", name);
  view_ = weights.view(static_cast<size_t>(weight_.index));
}

void Linear::forward(Backend& backend, const Tensor& y, const Tensor& x, bool accumulate) const {
  backend.linear_forward(y, x, view_, bias_.value, accumulate);
}

void Linear::backward(Backend& backend, const ParameterSet& gradients, const Tensor& dx,
                      const Tensor& dy, const Tensor& x, bool accumulate_dx) const {
  backend.linear_backward_input(dx, dy, view_, accumulate_dx);
  const Tensor dw = weight_.gradient(gradients), dbias = bias_.gradient(gradients);
  if (dw.defined()) backend.linear_backward_weight(dw, dy, x);
  if (dbias.defined()) backend.linear_backward_bias(dbias, dy);
}

}  // namespace longgen::model
