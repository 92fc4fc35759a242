// One parameter as a unit sees it: its value, and where its gradient is accumulated.
#pragma once

#include <string_view>

#include "longgen/model/weights.h"

namespace longgen::model {

struct Parameter {
  Tensor value;        // undefined: the model has none
  int64_t index = -1;  // in the ParameterSet
  bool trainable = false;

  // An absent name gives an undefined parameter: biases are optional.
  static Parameter find(const ParameterSet& weights, std::string_view name) {
    const int64_t index = weights.index_of(name);
    if (index < 0) return {};
    const auto i = static_cast<size_t>(index);
    return {weights.tensors()[i], index, weights.specs()[i].trainable};
  }

  // Undefined when the parameter is absent or frozen.
  Tensor gradient(const ParameterSet& gradients) const {
    return trainable ? gradients.tensors()[static_cast<size_t>(index)] : Tensor();
  }
};

}  // namespace longgen::model
