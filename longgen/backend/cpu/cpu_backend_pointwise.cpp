// Moving, activations, loss, optimizer.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "longgen/backend/cpu/checks.h"
#include "longgen/backend/cpu/cpu_backend.h"
#include "longgen/backend/cpu/row_dispatch.h"
#include "longgen/backend/cpu/rows.h"
#include "longgen/base/error.h"

namespace longgen {

using cpu::check;
using cpu::check_activation;
using cpu::check_ids;
using cpu::check_like;
using cpu::check_rank;
using cpu::for_items;
using cpu::for_stretches;
using cpu::Rows;

namespace {

RowActivation row_activation(Activation act) {
  switch (act) {
    case Activation::kSilu:
      return RowActivation::kSilu;
    case Activation::kGelu:
      return RowActivation::kGelu;
    case Activation::kGeluTanh:
      return RowActivation::kGeluTanh;
    case Activation::kRelu:
      return RowActivation::kRelu;
  }
  fail("cpu activation: {} is no activation", static_cast<int>(act));
}

std::byte* element(const Tensor& x, int64_t offset) {
  return static_cast<std::byte*>(x.raw()) + offset * dtype_size(x.dtype());
}
template <typename T>
T* element_as(const Tensor& x, int64_t offset) {
  return reinterpret_cast<T*>(element(x, offset));
}

// The neighbour towards zero with its last bit set unless exact ("round to odd"): rounding it again
// to a shorter type then equals rounding x once.
float to_odd_float(double x) {
  const float nearest = static_cast<float>(x);
  if (std::isnan(x) || static_cast<double>(nearest) == x) return nearest;
  const bool beyond = std::abs(static_cast<double>(nearest)) > std::abs(x);
  return std::bit_cast<float>((std::bit_cast<uint32_t>(nearest) - (beyond ? 1 : 0)) | 1u);
}

double load_element(const std::byte* p, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::kF64:
      return reinterpret_cast<const double*>(p)[i];
    case DType::kF32:
      return reinterpret_cast<const float*>(p)[i];
    case DType::kBF16:
      return static_cast<double>(reinterpret_cast<const bf16*>(p)[i]);
    case DType::kF16:
      return f16_to_float(reinterpret_cast<const f16*>(p)[i]);
    default:
      fail("cpu copy: {} is not converted", dtype_name(dtype));
  }
}

void store_element(std::byte* p, DType dtype, int64_t i, double value) {
  switch (dtype) {
    case DType::kF64:
      reinterpret_cast<double*>(p)[i] = value;
      return;
    case DType::kF32:
      reinterpret_cast<float*>(p)[i] = static_cast<float>(value);
      return;
    case DType::kBF16:
      reinterpret_cast<bf16*>(p)[i] = bf16(to_odd_float(value));
      return;
    case DType::kF16:
      reinterpret_cast<f16*>(p)[i] = float_to_f16(to_odd_float(value));
      return;
    default:
      fail("cpu copy: {} is not converted", dtype_name(dtype));
  }
}

void convert(CpuIsa isa, std::byte* to, DType to_dtype, const std::byte* from, DType from_dtype,
             int64_t n) {
  if (to_dtype == from_dtype) {
    std::memmove(to, from, static_cast<size_t>(n * dtype_size(to_dtype)));
  } else if (to_dtype == DType::kF32 && from_dtype == DType::kBF16) {
    row_kernels<uint16_t>(isa).to_float(reinterpret_cast<float*>(to),
                                        reinterpret_cast<const uint16_t*>(from), n);
  } else if (to_dtype == DType::kBF16 && from_dtype == DType::kF32) {
    row_kernels<uint16_t>(isa).from_float(reinterpret_cast<uint16_t*>(to),
                                          reinterpret_cast<const float*>(from), n);
  } else {
    for (int64_t i = 0; i < n; ++i)
      store_element(to, to_dtype, i, load_element(from, from_dtype, i));
  }
}

}  // namespace

void CpuBackend::zero(const Tensor& x) {
  const int64_t size = dtype_size(x.dtype());
  for_stretches(pool_, std::array{&x}, [&](const auto& at, int64_t n) {
    std::memset(element(x, at[0]), 0, static_cast<size_t>(n * size));
  });
}

void CpuBackend::copy(const Tensor& dst, const Tensor& src) {
  check_like("copy", "dst", dst, dst.dtype(), src);
  for_stretches(pool_, std::array{&dst, &src}, [&](const auto& at, int64_t n) {
    convert(context_.isa, element(dst, at[0]), dst.dtype(), element(src, at[1]), src.dtype(), n);
  });
}

void CpuBackend::activation_forward(Activation act, const Tensor& out, const Tensor& gate,
                                    const Tensor& up) {
  constexpr std::string_view kOp = "activation_forward";
  check_activation(kOp, "gate", gate);
  check_like(kOp, "out", out, gate.dtype(), gate);
  if (up.defined()) check_like(kOp, "up", up, gate.dtype(), gate);
  const RowActivation kind = row_activation(act);
  const Tensor& second = up.defined() ? up : gate;
  by_dtype(gate.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const auto forward = row_kernels<T>(context_.isa).activation_forward;
    for_stretches(pool_, std::array{&out, &gate, &second}, [&](const auto& at, int64_t n) {
      forward(kind, element_as<T>(out, at[0]), element_as<T>(gate, at[1]),
              up.defined() ? element_as<T>(up, at[2]) : nullptr, n);
    });
  });
}

void CpuBackend::activation_backward(Activation act, const Tensor& dgate, const Tensor& dup,
                                     const Tensor& dout, const Tensor& gate, const Tensor& up) {
  activation_gradients("activation_backward", act, Tensor(), dgate, dup, dout, gate, up);
}

void CpuBackend::activation_both(Activation act, const Tensor& out, const Tensor& dgate,
                                 const Tensor& dup, const Tensor& dout, const Tensor& gate,
                                 const Tensor& up) {
  check_activation("activation_both", "gate", gate);
  check_like("activation_both", "out", out, gate.dtype(), gate);
  activation_gradients("activation_both", act, out, dgate, dup, dout, gate, up);
}

void CpuBackend::activation_gradients(std::string_view op, Activation act, const Tensor& out,
                                      const Tensor& dgate, const Tensor& dup, const Tensor& dout,
                                      const Tensor& gate, const Tensor& up) {
  check_activation(op, "gate", gate);
  check_like(op, "dgate", dgate, gate.dtype(), gate);
  check_like(op, "dout", dout, gate.dtype(), gate);
  require(dup.defined() == up.defined(), "cpu {}: up and dup go together", op);
  if (up.defined()) {
    check_like(op, "up", up, gate.dtype(), gate);
    check_like(op, "dup", dup, gate.dtype(), gate);
  }
  const RowActivation kind = row_activation(act);
  const Tensor& second = up.defined() ? up : gate;
  const Tensor& to_second = up.defined() ? dup : dgate;
  const Tensor& to_out = out.defined() ? out : dgate;
  by_dtype(gate.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const auto backward = row_kernels<T>(context_.isa).activation_backward;
    for_stretches(pool_, std::array{&dgate, &to_second, &dout, &gate, &second, &to_out},
                  [&](const auto& at, int64_t n) {
                    backward(kind, out.defined() ? element_as<T>(out, at[5]) : nullptr,
                             element_as<T>(dgate, at[0]),
                             up.defined() ? element_as<T>(dup, at[1]) : nullptr,
                             element_as<T>(dout, at[2]), element_as<T>(gate, at[3]),
                             up.defined() ? element_as<T>(up, at[4]) : nullptr, n);
                  });
  });
}

void CpuBackend::add(const Tensor& out, const Tensor& a, const Tensor& b) {
  check_activation("add", "a", a);
  check_like("add", "out", out, a.dtype(), a);
  check_like("add", "b", b, a.dtype(), a);
  by_dtype(a.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const auto sum = row_kernels<T>(context_.isa).add;
    for_stretches(pool_, std::array{&out, &a, &b}, [&](const auto& at, int64_t n) {
      sum(element_as<T>(out, at[0]), element_as<T>(a, at[1]), element_as<T>(b, at[2]), n);
    });
  });
}

void CpuBackend::softmax_cross_entropy(const Tensor& losses, const Tensor& dlogits,
                                       const Tensor& logits, const Tensor& labels, double scale) {
  constexpr std::string_view kOp = "softmax_cross_entropy";
  check_rank(kOp, "logits", logits, 2);
  const int64_t rows = logits.dim(0), n = logits.dim(1);
  check(kOp, "logits", logits, DType::kF32, {rows, n});
  check(kOp, "losses", losses, DType::kF32, {rows});
  check(kOp, "labels", labels, DType::kI32, {rows});
  check_ids(kOp, labels, n, true);
  if (dlogits.defined()) {
    check_activation(kOp, "dlogits", dlogits);
    check_like(kOp, "dlogits", dlogits, dlogits.dtype(), logits);
  }
  const int32_t* label = labels.data<int32_t>();
  float* loss = losses.data<float>();
  by_dtype(dlogits.defined() ? dlogits.dtype() : DType::kF32, [&](auto zero) {
    using T = decltype(zero);
    const auto cross_entropy = row_kernels<T>(context_.isa).cross_entropy;
    for_items(pool_, rows, n, [&](int64_t begin, int64_t end, int) {
      for (int64_t t = begin; t < end; ++t) {
        T* gradient = dlogits.defined() ? element_as<T>(dlogits, t * dlogits.stride(0)) : nullptr;
        if (label[t] == -1) {
          loss[t] = 0;
          if (gradient) std::memset(gradient, 0, static_cast<size_t>(n) * sizeof(T));
          continue;
        }
        loss[t] = cross_entropy(gradient, logits.data<float>() + t * logits.stride(0), n, label[t],
                                static_cast<float>(scale));
      }
    });
  });
}

double CpuBackend::sum_of_squares(const Tensor& x) {
  constexpr int64_t kStretch = 16384;
  check_activation("sum_of_squares", "x", x);
  const Rows shape(x);
  const int64_t numel = x.numel();
  const bool whole = x.is_contiguous();
  const int64_t count = whole ? ceil_div(numel, kStretch) : shape.count();
  double* parts = partials_.get_array<double>(std::max<int64_t>(count, 1));
  by_dtype(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const auto sum = row_kernels<T>(context_.isa).sum_of_squares;
    for_items(pool_, count, whole ? kStretch : shape.length(),
              [&](int64_t begin, int64_t end, int) {
                for (int64_t i = begin; i < end; ++i) {
                  parts[i] = whole ? sum(element_as<T>(x, i * kStretch),
                                         std::min(kStretch, numel - i * kStretch))
                                   : sum(shape.at<T>(i), shape.length());
                }
              });
  });
  double total = 0;
  for (int64_t i = 0; i < count; ++i) total += parts[i];
  return total;
}

namespace {

AdamWFactors adamw_factors(const AdamW& args) {
  require(args.step >= 1, "cpu adamw_step: step {}; the first is 1", args.step);
  const double correct_m = 1 - std::pow(args.beta1, static_cast<double>(args.step));
  const double correct_v = 1 - std::pow(args.beta2, static_cast<double>(args.step));
  return {
      .beta1 = static_cast<float>(args.beta1),
      .beta2 = static_cast<float>(args.beta2),
      .one_minus_beta1 = static_cast<float>(1 - args.beta1),
      .one_minus_beta2 = static_cast<float>(1 - args.beta2),
      .gradient_scale = static_cast<float>(args.gradient_scale),
      .m_factor = static_cast<float>(args.lr / correct_m),
      .v_factor = static_cast<float>(1 / correct_v),
      .eps = static_cast<float>(args.eps),
      .decay = static_cast<float>(args.lr * args.weight_decay),
  };
}

}  // namespace

void CpuBackend::adamw_step(const Tensor& weights, const Tensor& master, const Tensor& m,
                            const Tensor& v, const Tensor& gradient, const AdamW& args) {
  constexpr std::string_view kOp = "adamw_step";
  check_activation(kOp, "weights", weights);
  const std::array names = {"master", "m", "v", "gradient"};
  const std::array tensors = {&master, &m, &v, &gradient};
  for (size_t i = 0; i < names.size(); ++i) {
    require(tensors[i]->defined() && tensors[i]->dtype() == DType::kF32 &&
                tensors[i]->numel() == weights.numel() && tensors[i]->is_contiguous(),
            "cpu adamw_step: {} is {}, but contiguous f32 with the {} elements of weights was "
            "expected",
            names[i], tensors[i]->shape_string(), weights.numel());
  }
  require(weights.is_contiguous(), "cpu adamw_step: weights must be contiguous");
  const AdamWFactors factors = adamw_factors(args);
  by_dtype(weights.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const auto step = row_kernels<T>(context_.isa).adamw;
    for_stretches(pool_, std::array{&weights}, [&](const auto& at, int64_t n) {
      step(factors, element_as<T>(weights, at[0]), element_as<float>(master, at[0]),
           element_as<float>(m, at[0]), element_as<float>(v, at[0]),
           element_as<float>(gradient, at[0]), n);
    });
  });
}

void CpuBackend::adamw_step_bf16(const Tensor& weights, const Tensor& m, const Tensor& v,
                                 const Tensor& gradient, const AdamW& args,
                                 const StochasticRounding& rounding) {
  constexpr std::string_view kOp = "adamw_step_bf16";
  for (const auto& [name, x, dtype] : {std::tuple{"weights", &weights, DType::kBF16},
                                       {"m", &m, DType::kBF16},
                                       {"v", &v, DType::kBF16},
                                       {"gradient", &gradient, DType::kF32}}) {
    check_like(kOp, name, *x, dtype, weights);
    require(x->is_contiguous(), "cpu {}: {} must be contiguous", kOp, name);
  }
  const AdamWFactors factors = adamw_factors(args);
  const RowRounding by{rounding.seed, rounding.stream};
  const auto step = row_kernels<uint16_t>(context_.isa).adamw_bf16;
  for_stretches(pool_, std::array{&weights}, [&](const auto& at, int64_t n) {
    step(factors, by, at[0], element_as<uint16_t>(weights, at[0]), element_as<uint16_t>(m, at[0]),
         element_as<uint16_t>(v, at[0]), element_as<float>(gradient, at[0]), n);
  });
}

}  // namespace longgen
