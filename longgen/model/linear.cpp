#include "longgen/model/linear.h"

#include "longgen/model/buffers.h"

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

void Linear::forward_all(Backend& backend, std::initializer_list<Output> outputs, const Tensor& x) {
  Tensor y;
  WeightView w;
  bool joined = true;
  for (const Output& o : outputs) {
    const WeightView& view = o.linear.view_;
    joined = !o.linear.bias_.value.defined();
    if (!joined) break;
    y = y.defined() ? side_by_side(y, o.y) : o.y;
    w = w.data.defined() ? one_after_the_other(w, view) : view;
    joined = y.defined() && w.data.defined();
    if (!joined) break;
  }
  if (joined) return backend.linear_forward(y, x, w, Tensor(), /*accumulate=*/false);
  for (const Output& o : outputs) o.linear.forward(backend, o.y, x);
}

void Linear::backward_all(Backend& backend, const ParameterSet& gradients, const Tensor& dx,
                          std::initializer_list<Output> outputs, const Tensor& x) {
  Tensor dy, dw;
  bool joined = true;
  for (const Output& o : outputs) {
    const Tensor gradient = o.linear.weight_.gradient(gradients);
    joined = gradient.defined() && !o.linear.bias_.value.defined();
    if (!joined) break;
    dy = dy.defined() ? side_by_side(dy, o.y) : o.y;
    dw = dw.defined() ? one_after_the_other(dw, gradient) : gradient;
    joined = dy.defined() && dw.defined();
    if (!joined) break;
  }
  bool accumulate = false;
  for (const Output& o : outputs) {
    backend.linear_backward_input(dx, o.y, o.linear.view_, accumulate);
    accumulate = true;
    if (!joined) o.linear.backward_parameters(backend, gradients, o.y, x);
  }
  if (joined) backend.linear_backward_weight(dw, dy, x);
}

void Linear::backward(Backend& backend, const ParameterSet& gradients, const Tensor& dx,
                      const Tensor& dy, const Tensor& x, bool accumulate_dx) const {
  backward_input(backend, dx, dy, accumulate_dx);
  backward_parameters(backend, gradients, dy, x);
}

void Linear::backward_parameters(Backend& backend, const ParameterSet& gradients, const Tensor& dy,
                                 const Tensor& x) const {
  const Tensor dw = weight_.gradient(gradients), dbias = bias_.gradient(gradients);
  if (dw.defined()) backend.linear_backward_weight(dw, dy, x);
  if (dbias.defined()) backend.linear_backward_bias(dbias, dy);
}

}  // namespace longgen::model
