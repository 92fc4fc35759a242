// Products of the cuda backend: checks, descriptions for cuBLASLt and for the kernels of few rows.
#include "longgen/backend/cuda/cuda_backend.h"
#include "longgen/backend/cuda/few_rows.h"

namespace longgen::cuda {
namespace {

// y = x w^T, checked, without what is added to it.
ProductArgs forward_product(const Tensor& y, const Tensor& x, const Tensor& w) {
  checks().rank("linear", "x", x, 2);
  checks().rank("linear", "weight", w, 2);
  checks().activation("linear", "x", x);
  checks().exact("linear", "weight", w, x.dtype(), {w.dim(0), x.dim(1)});
  checks().activation("linear", "y", y);
  checks().exact("linear", "y", y, y.dtype(), {x.dim(0), w.dim(0)});
  return {.m = x.dim(0),
          .n = w.dim(0),
          .k = x.dim(1),
          .a = x.raw(),
          .b = w.raw(),
          .c = y.raw(),
          .a_stride = x.stride(0),
          .b_stride = w.stride(0),
          .c_stride = y.stride(0),
          .b_transposed = true,
          .type = element_of(x.dtype()),
          .c_type = element_of(y.dtype())};
}

}  // namespace

void CudaBackend::linear_forward(const Tensor& y, const Tensor& x, const WeightView& weight,
                                 const Tensor& bias, bool accumulate) {
  const Tensor& w = plain(weight);
  ProductArgs args = forward_product(y, x, w);
  if (bias.defined()) checks().exact("linear", "bias", bias, x.dtype(), {w.dim(0)});
  if (collected("linear", y, x, w, bias, accumulate)) return;
  args.bias = bias.defined() ? bias.raw() : nullptr;
  args.accumulate = accumulate;
  if (takes_few_rows(args)) return product_few_rows(args, device_.processors, stream_.get());
  // cuBLASLt adds a bias of its inputs' type to outputs of that type alone.
  const bool fused = bias.defined() && !accumulate && y.dtype() == x.dtype();
  if (!fused) args.bias = nullptr;
  products_.run(args);
  if (bias.defined() && !fused) {
    add_bias(last_dimension_rows(y), element_of(y.dtype()), bias.raw(), element_of(bias.dtype()),
             stream_.get());
  }
}

void CudaBackend::linear_forward_onto(const Tensor& y, const Tensor& base, const Tensor& x,
                                      const WeightView& weight, const Tensor& bias) {
  const Tensor& w = plain(weight);
  ProductArgs args = forward_product(y, x, w);
  checks().exact("linear", "base", base, y.dtype(), {x.dim(0), w.dim(0)});
  args.accumulate = true;
  args.base = base.raw();
  if (y.raw() == base.raw() || y.stride(0) != base.stride(0) || bias.defined() ||
      takes_few_rows(args)) {
    return Backend::linear_forward_onto(y, base, x, weight, bias);
  }
  if (collected("linear onto", y, base, x, w)) return;
  products_.run(args);
}

void CudaBackend::linear_backward_input(const Tensor& dx, const Tensor& dy,
                                        const WeightView& weight, bool accumulate) {
  const Tensor& w = plain(weight);
  checks().rank("linear backward", "dy", dy, 2);
  checks().activation("linear backward", "dy", dy);
  checks().exact("linear backward", "weight", w, dy.dtype(), {dy.dim(1), w.dim(1)});
  checks().activation("linear backward", "dx", dx);
  checks().exact("linear backward", "dx", dx, dx.dtype(), {dy.dim(0), w.dim(1)});
  if (collected("linear backward", dx, dy, w, accumulate)) return;
  products_.run({.m = dy.dim(0),
                 .n = w.dim(1),
                 .k = w.dim(0),
                 .a = dy.raw(),
                 .b = w.raw(),
                 .c = dx.raw(),
                 .a_stride = dy.stride(0),
                 .b_stride = w.stride(0),
                 .c_stride = dx.stride(0),
                 .type = element_of(dy.dtype()),
                 .c_type = element_of(dx.dtype()),
                 .accumulate = accumulate});
}

void CudaBackend::linear_backward_weight(const Tensor& dw, const Tensor& dy, const Tensor& x) {
  checks().rank("linear backward", "x", x, 2);
  checks().activation("linear backward", "x", x);
  checks().exact("linear backward", "dy", dy, x.dtype(), {x.dim(0), dy.dim(1)});
  checks().exact("linear backward", "dw", dw, DType::kF32, {dy.dim(1), x.dim(1)});
  if (x.dim(0) == 0) return;
  if (collected("linear backward weight", dw, dy, x)) return;
  products_.run({.m = dy.dim(1),
                 .n = x.dim(1),
                 .k = x.dim(0),
                 .a = dy.raw(),
                 .b = x.raw(),
                 .c = dw.raw(),
                 .a_stride = dy.stride(0),
                 .b_stride = x.stride(0),
                 .c_stride = dw.stride(0),
                 .a_transposed = true,
                 .type = element_of(x.dtype()),
                 .c_type = Element::kF32,
                 .accumulate = true});
}

void CudaBackend::linear_backward_bias(const Tensor& dbias, const Tensor& dy) {
  refuse_in_step("linear backward");
  checks().rank("linear backward", "dy", dy, 2);
  checks().activation("linear backward", "dy", dy);
  checks().exact("linear backward", "dbias", dbias, DType::kF32, {dy.dim(1)});
  column_sums(dbias.data<float>(), last_dimension_rows(dy), scratch_.get<float>(),
              parts(dy.dim(0), dy.dim(1)), element_of(dy.dtype()), stream_.get());
}

}  // namespace longgen::cuda
