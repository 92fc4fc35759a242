// Checks of operands: an error names the operation, the operand, what it is and what it should be.
#pragma once

#include <initializer_list>
#include <string_view>

#include "longgen/tensor/tensor.h"

namespace longgen::cpu {

// Throws unless x is f32 or bf16, the activations that this backend computes with.
void check_activation(std::string_view op, std::string_view operand, const Tensor& x);

// Throws unless x has this dtype and shape.
void check(std::string_view op, std::string_view operand, const Tensor& x, DType dtype,
           std::initializer_list<int64_t> shape);

// Throws unless x has this dtype and the shape of `like`.
void check_like(std::string_view op, std::string_view operand, const Tensor& x, DType dtype,
                const Tensor& like);

// Throws unless x has this rank.
void check_rank(std::string_view op, std::string_view operand, const Tensor& x, int rank);

// Throws unless every one of the i32 `ids` is in [0, bound), or is -1 where `or_none` allows it.
void check_ids(std::string_view op, const Tensor& ids, int64_t bound, bool or_none = false);

}  // namespace longgen::cpu
