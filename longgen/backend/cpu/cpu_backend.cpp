#include "longgen/backend/cpu/cpu_backend.h"

#include <fmt/format.h>

#include "longgen/backend/cpu/attention.h"
#include "longgen/backend/cpu/checks.h"
#include "longgen/backend/cpu/cpu_features.h"
#include "longgen/backend/quantized.h"
#include "longgen/base/error.h"

namespace longgen {
namespace {

const Tensor& plain_weight(std::string_view op, const WeightView& w, DType dtype) {
  require(w.is_plain(), "cpu {}: no gradient goes through a {} weight", op,
          quantized::scheme_name(w.scheme));
  cpu::check_rank(op, "the weight", w.data, 2);
  cpu::check(op, "the weight", w.data, dtype, {w.data.dim(0), w.data.dim(1)});
  return w.data;
}

// An output [rows, columns] in the activations' dtype or in f32.
void check_output(std::string_view op, std::string_view operand, const Tensor& x, DType activation,
                  int64_t rows, int64_t columns) {
  cpu::check(op, operand, x, x.dtype() == DType::kF32 ? DType::kF32 : activation, {rows, columns});
}

}  // namespace

CpuBackend::CpuBackend(int threads, CpuIsa isa)
    : pool_(threads), context_{pool_, isa}, gemm_(context_), quantized_(context_) {}

std::string CpuBackend::description() const {
  const bool emulated = amx_is_emulated() && context_.isa == CpuIsa::kAmx;
  return fmt::format("cpu ({}{}, {} thread{})", cpu_isa_name(context_.isa),
                     emulated ? ", emulated" : "", pool_.size(), pool_.size() == 1 ? "" : "s");
}

// Without bf16 instructions every product would first widen its operands.
DType CpuBackend::preferred_dtype() const {
  const bool has_bf16 = context_.isa == CpuIsa::kAvx512Bf16 || context_.isa == CpuIsa::kAmx;
  return has_bf16 ? DType::kBF16 : DType::kF32;
}

void CpuBackend::linear_forward(const Tensor& y, const Tensor& x, const WeightView& weight,
                                const Tensor& bias, bool accumulate) {
  if (!weight.is_plain()) return quantized_.linear_forward(y, x, weight, bias, accumulate);
  multiply_weight("linear_forward", y, accumulate ? y : Tensor(), x, weight, bias);
}

void CpuBackend::linear_forward_onto(const Tensor& y, const Tensor& base, const Tensor& x,
                                     const WeightView& weight, const Tensor& bias) {
  constexpr std::string_view kOp = "linear_forward_onto";
  if (!weight.is_plain()) return Backend::linear_forward_onto(y, base, x, weight, bias);
  cpu::check_like(kOp, "base", base, y.dtype(), y);
  multiply_weight(kOp, y, base, x, weight, bias);
}

void CpuBackend::multiply_weight(std::string_view op, const Tensor& y, const Tensor& base,
                                 const Tensor& x, const WeightView& weight, const Tensor& bias) {
  cpu::check_activation(op, "x", x);
  cpu::check_rank(op, "x", x, 2);
  const Tensor& w = plain_weight(op, weight, x.dtype());
  const int64_t rows = x.dim(0), n = w.dim(0), k = w.dim(1);
  cpu::check(op, "x", x, x.dtype(), {rows, k});
  check_output(op, "y", y, x.dtype(), rows, n);
  if (bias.defined()) cpu::check(op, "bias", bias, x.dtype(), {n});
  gemm_.run({.dtype = x.dtype(),
             .m = rows,
             .n = n,
             .k = k,
             .a = {x.raw(), x.stride(0), true},
             .b = {w.raw(), w.stride(0), true},
             .c = y.raw(),
             .c_dtype = y.dtype(),
             .c_stride = y.stride(0),
             .bias = bias.defined() ? bias.raw() : nullptr,
             .base = base.defined() ? base.raw() : nullptr,
             .base_stride = base.defined() ? base.stride(0) : 0});
}

void CpuBackend::linear_backward_input(const Tensor& dx, const Tensor& dy, const WeightView& weight,
                                       bool accumulate) {
  constexpr std::string_view kOp = "linear_backward_input";
  cpu::check_activation(kOp, "dy", dy);
  cpu::check_rank(kOp, "dy", dy, 2);
  const Tensor& w = plain_weight(kOp, weight, dy.dtype());
  const int64_t rows = dy.dim(0), n = w.dim(0), k = w.dim(1);
  cpu::check(kOp, "dy", dy, dy.dtype(), {rows, n});
  check_output(kOp, "dx", dx, dy.dtype(), rows, k);
  gemm_.run({.dtype = dy.dtype(),
             .m = rows,
             .n = k,
             .k = n,
             .a = {dy.raw(), dy.stride(0), true},
             .b = {w.raw(), w.stride(0), false},
             .c = dx.raw(),
             .c_dtype = dx.dtype(),
             .c_stride = dx.stride(0),
             .base = accumulate ? dx.raw() : nullptr,
             .base_stride = dx.stride(0)});
}

void CpuBackend::linear_backward_weight(const Tensor& dw, const Tensor& dy, const Tensor& x) {
  constexpr std::string_view kOp = "linear_backward_weight";
  cpu::check_activation(kOp, "x", x);
  cpu::check_rank(kOp, "x", x, 2);
  cpu::check_rank(kOp, "dy", dy, 2);
  const int64_t rows = x.dim(0), n = dy.dim(1), k = x.dim(1);
  cpu::check(kOp, "dy", dy, x.dtype(), {rows, n});
  cpu::check(kOp, "dw", dw, DType::kF32, {n, k});
  if (rows == 0) return;
  gemm_.run({.dtype = x.dtype(),
             .m = n,
             .n = k,
             .k = rows,
             .a = {dy.raw(), dy.stride(0), false},
             .b = {x.raw(), x.stride(0), false},
             .c = dw.raw(),
             .c_dtype = DType::kF32,
             .c_stride = dw.stride(0),
             .base = dw.raw(),
             .base_stride = dw.stride(0)});
}

int64_t CpuBackend::attention_forward_workspace_bytes(const AttentionShape& shape) const {
  return cpu_attention_forward_workspace_bytes(shape, context_);
}
void CpuBackend::attention_forward(const AttentionForward& args) {
  cpu_attention_forward(args, context_);
}
int64_t CpuBackend::attention_backward_workspace_bytes(const AttentionShape& shape) const {
  return cpu_attention_backward_workspace_bytes(shape, context_);
}
void CpuBackend::attention_backward(const AttentionBackward& args) {
  cpu_attention_backward(args, context_);
}
void CpuBackend::kv_write(const KvView& kv, DType kv_dtype, int64_t block_size,
                          int64_t first_position, const Tensor& k, const Tensor& v) {
  cpu_kv_write(kv, kv_dtype, block_size, first_position, k, v, context_);
}

std::unique_ptr<Backend> make_cpu_backend(int threads, CpuIsa isa) {
  require(threads >= 0, "{} threads; use 0 (all that the process may use) or more", threads);
  return std::make_unique<CpuBackend>(threads == 0 ? ThreadPool::hardware_threads() : threads,
                                      resolve_cpu_isa(isa));
}

}  // namespace longgen
