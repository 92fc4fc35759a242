#include "longgen/backend/operand_checks.h"

#include <algorithm>

#include "longgen/base/error.h"

namespace longgen {
namespace {

std::string describe(const Tensor& x) { return x.defined() ? x.shape_string() : "undefined"; }

}  // namespace

void OperandChecks::memory(std::string_view op, std::string_view operand, const Tensor& x) const {
  require(x.device() == device_, "{} {}: {} is not in {} memory", backend_, op, operand,
          device_ == Device::kHost ? "host" : "device");
}

void OperandChecks::activation(std::string_view op, std::string_view operand,
                               const Tensor& x) const {
  if (!x.defined() || (x.dtype() != DType::kF32 && x.dtype() != DType::kBF16)) {
    fail("{} {}: {} is {}; this backend computes with f32 and bf16", backend_, op, operand,
         describe(x));
  }
  memory(op, operand, x);
}

void OperandChecks::shape(std::string_view op, std::string_view operand, const Tensor& x,
                          DType dtype, std::span<const int64_t> wanted) const {
  const auto actual = x.shape();
  const bool same = x.defined() && x.dtype() == dtype &&
                    std::equal(actual.begin(), actual.end(), wanted.begin(), wanted.end());
  // Asked at every call: nothing is formatted unless it is wrong.
  if (!same) {
    fail("{} {}: {} is {}, but {} was expected", backend_, op, operand, describe(x),
         Tensor(nullptr, dtype, wanted).shape_string());
  }
  memory(op, operand, x);
}

void OperandChecks::exact(std::string_view op, std::string_view operand, const Tensor& x,
                          DType dtype, std::initializer_list<int64_t> wanted) const {
  shape(op, operand, x, dtype, std::span(wanted.begin(), wanted.size()));
}

void OperandChecks::like(std::string_view op, std::string_view operand, const Tensor& x,
                         DType dtype, const Tensor& like) const {
  shape(op, operand, x, dtype, like.shape());
}

void OperandChecks::rank(std::string_view op, std::string_view operand, const Tensor& x,
                         int rank) const {
  if (x.rank() != rank) {
    fail("{} {}: {} is {}, but rank {} was expected", backend_, op, operand, describe(x), rank);
  }
}

}  // namespace longgen
