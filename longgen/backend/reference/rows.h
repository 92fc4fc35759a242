// How the reference reads tensors: row by row, whatever the rank and the strides.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <string_view>

#include "longgen/base/error.h"
#include "longgen/tensor/tensor.h"

namespace longgen::reference {

// All dimensions but the last form the rows.
inline int64_t row_count(const Tensor& x) { return x.dim(-1) == 0 ? 0 : x.numel() / x.dim(-1); }

// Where row i begins, in elements.
inline int64_t row_offset(const Tensor& x, int64_t i) {
  int64_t offset = 0;
  for (int axis = x.rank() - 2; axis >= 0; --axis) {
    offset += i % x.dim(axis) * x.stride(axis);
    i /= x.dim(axis);
  }
  return offset;
}

// Pointer to row i. Throws unless x holds T.
template <typename T = double>
T* row(const Tensor& x, int64_t i) {
  return x.data<T>() + row_offset(x, i);
}

// Throws Error naming the operand unless x has this dtype and shape.
inline void expect(std::string_view operand, const Tensor& x, DType dtype,
                   std::initializer_list<int64_t> shape) {
  const bool same = x.dtype() == dtype && x.rank() == static_cast<int>(shape.size()) &&
                    std::equal(shape.begin(), shape.end(), x.shape().begin());
  if (same) return;
  fail("reference backend (f64 only): {} is {}, but {} was expected", operand,
       x.defined() ? x.shape_string() : "undefined", Tensor(nullptr, dtype, shape).shape_string());
}

// The same shape as `like`, in f64.
inline void expect_like(std::string_view operand, const Tensor& x, const Tensor& like) {
  const auto a = x.shape(), b = like.shape();
  require(x.dtype() == DType::kF64 && std::equal(a.begin(), a.end(), b.begin(), b.end()),
          "reference backend: {} is {}, but f64 in the shape of {} was expected", operand,
          x.shape_string(), like.shape_string());
}

}  // namespace longgen::reference
