#include "longgen/backend/cpu/checks.h"

#include "longgen/backend/operand_checks.h"
#include "longgen/base/error.h"

namespace longgen::cpu {
namespace {

OperandChecks checks() { return {"cpu", Device::kHost}; }

}  // namespace

void check_activation(std::string_view op, std::string_view operand, const Tensor& x) {
  checks().activation(op, operand, x);
}

void check(std::string_view op, std::string_view operand, const Tensor& x, DType dtype,
           std::initializer_list<int64_t> shape) {
  checks().exact(op, operand, x, dtype, shape);
}

void check_like(std::string_view op, std::string_view operand, const Tensor& x, DType dtype,
                const Tensor& like) {
  checks().like(op, operand, x, dtype, like);
}

void check_rank(std::string_view op, std::string_view operand, const Tensor& x, int rank) {
  checks().rank(op, operand, x, rank);
}

void check_ids(std::string_view op, const Tensor& ids, int64_t bound, bool or_none) {
  const int32_t* id = ids.data<int32_t>();
  for (int64_t t = 0; t < ids.dim(0); ++t) {
    require((id[t] >= 0 && id[t] < bound) || (or_none && id[t] == -1),
            "cpu {}: {} at row {} is outside [0, {})", op, id[t], t, bound);
  }
}

}  // namespace longgen::cpu
