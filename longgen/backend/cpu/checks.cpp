#include "longgen/backend/cpu/checks.h"

#include <algorithm>

#include "longgen/base/error.h"

namespace longgen::cpu {
namespace {

std::string describe(const Tensor& x) { return x.defined() ? x.shape_string() : "undefined"; }

void check_host(std::string_view op, std::string_view operand, const Tensor& x) {
  require(x.device() == Device::kHost, "cpu {}: {} is not in host memory", op, operand);
}

}  // namespace

void check_activation(std::string_view op, std::string_view operand, const Tensor& x) {
  require(x.defined() && (x.dtype() == DType::kF32 || x.dtype() == DType::kBF16),
          "cpu {}: {} is {}; this backend computes with f32 and bf16", op, operand, describe(x));
  check_host(op, operand, x);
}

void check(std::string_view op, std::string_view operand, const Tensor& x, DType dtype,
           std::initializer_list<int64_t> shape) {
  const auto actual = x.shape();
  const bool same = x.defined() && x.dtype() == dtype &&
                    std::equal(actual.begin(), actual.end(), shape.begin(), shape.end());
  require(same, "cpu {}: {} is {}, but {} was expected", op, operand, describe(x),
          Tensor(nullptr, dtype, shape).shape_string());
  check_host(op, operand, x);
}

void check_like(std::string_view op, std::string_view operand, const Tensor& x, DType dtype,
                const Tensor& like) {
  const auto actual = x.shape(), wanted = like.shape();
  const bool same = x.defined() && x.dtype() == dtype &&
                    std::equal(actual.begin(), actual.end(), wanted.begin(), wanted.end());
  require(same, "cpu {}: {} is {}, but {} was expected", op, operand, describe(x),
          Tensor(nullptr, dtype, wanted).shape_string());
  check_host(op, operand, x);
}

void check_rank(std::string_view op, std::string_view operand, const Tensor& x, int rank) {
  require(x.rank() == rank, "cpu {}: {} is {}, but rank {} was expected", op, operand, describe(x),
          rank);
}

void check_ids(std::string_view op, const Tensor& ids, int64_t bound, bool or_none) {
  const int32_t* id = ids.data<int32_t>();
  for (int64_t t = 0; t < ids.dim(0); ++t) {
    require((id[t] >= 0 && id[t] < bound) || (or_none && id[t] == -1),
            "cpu {}: {} at row {} is outside [0, {})", op, id[t], t, bound);
  }
}

}  // namespace longgen::cpu
