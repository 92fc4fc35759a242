// Checks of operands, shared by the backends: an error names backend, operation and operand, what
// it is and what it should be.
#pragma once

#include <initializer_list>
#include <span>
#include <string>
#include <string_view>

#include "longgen/tensor/tensor.h"

namespace longgen {

class OperandChecks {
 public:
  OperandChecks(std::string backend, Device device)
      : backend_(std::move(backend)), device_(device) {}

  // Throws unless x is f32 or bf16 in this device's memory.
  void activation(std::string_view op, std::string_view operand, const Tensor& x) const;
  // Throws unless x has this dtype and shape.
  void exact(std::string_view op, std::string_view operand, const Tensor& x, DType dtype,
             std::initializer_list<int64_t> shape) const;
  // Throws unless x has this dtype and the shape of `like`.
  void like(std::string_view op, std::string_view operand, const Tensor& x, DType dtype,
            const Tensor& like) const;
  void rank(std::string_view op, std::string_view operand, const Tensor& x, int rank) const;

 private:
  void shape(std::string_view op, std::string_view operand, const Tensor& x, DType dtype,
             std::span<const int64_t> wanted) const;
  void memory(std::string_view op, std::string_view operand, const Tensor& x) const;

  std::string backend_;
  Device device_;
};

}  // namespace longgen
