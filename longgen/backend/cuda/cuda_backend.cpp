#include "longgen/backend/cuda/cuda_backend.h"

#include <algorithm>
#include <cmath>

#include "longgen/backend/cuda/wide_rows.h"
#include "longgen/base/checked.h"
#include "longgen/base/error.h"
#include "longgen/base/units.h"

namespace longgen::cuda {
namespace {

constexpr int64_t kScratchBytes = int64_t{64} << 20;
static_assert(kScratchBytes >= 4 * kWidePartialFloats);
constexpr int64_t kArrivalBytes = int64_t{4} << 20;
constexpr int64_t kMostParts = 128;  // pieces of the rows in sums over rows

AdamWArgs adamw_args(const AdamW& o) {
  const auto step = static_cast<double>(o.step);
  return {.lr = static_cast<float>(o.lr),
          .beta1 = static_cast<float>(o.beta1),
          .beta2 = static_cast<float>(o.beta2),
          .eps = static_cast<float>(o.eps),
          .weight_decay = static_cast<float>(o.weight_decay),
          .gradient_scale = static_cast<float>(o.gradient_scale),
          .correct_m = static_cast<float>(1 - std::pow(o.beta1, step)),
          .correct_v = static_cast<float>(1 - std::pow(o.beta2, step))};
}

}  // namespace

const OperandChecks& checks() {
  static const OperandChecks value("cuda", longgen::Device::kCuda);
  return value;
}

const Tensor& plain(const WeightView& w) {
  require(w.scheme == WeightScheme::kPlain,
          "the cuda backend computes with plain weights only; load them dequantised (--dtype "
          "bf16)");
  return w.data;
}

Element element_of(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return Element::kF64;
    case DType::kF32:
      return Element::kF32;
    case DType::kF16:
      return Element::kF16;
    case DType::kBF16:
      return Element::kBF16;
    default:
      fail("cuda: {} is no floating-point type", dtype_name(dtype));
  }
}

Rows last_dimension_rows(const Tensor& x) {
  Rows r{.data = x.raw(), .rows = 1, .cols = x.dim(-1)};
  switch (x.rank()) {
    case 1:
      return r;
    case 2:
      r.rows = x.dim(0);
      r.outer_stride = x.stride(0);
      return r;
    case 3:
      r.rows = x.dim(0) * x.dim(1);
      r.inner = std::max<int64_t>(1, x.dim(1));
      r.outer_stride = x.stride(0);
      r.inner_stride = x.stride(1);
      return r;
    default:
      require(x.is_contiguous(), "cuda: {} is not contiguous", x.shape_string());
      r.rows = x.numel() / std::max<int64_t>(1, r.cols);
      r.outer_stride = r.cols;
      return r;
  }
}

Rows rows_of(const Tensor& x) {
  const int64_t n = x.numel();
  if (!x.is_contiguous() || n == 0) return last_dimension_rows(x);
  int64_t cols = 4096;
  while (cols > 64 && n % cols != 0) cols /= 2;
  if (n % cols != 0) return last_dimension_rows(x);
  return {.data = x.raw(), .rows = n / cols, .cols = cols, .outer_stride = cols};
}

CudaBackend::Device::Device(int i) : index(i) {
  std::string why;
  const int count = device_count(why);
  if (count == 0) fail("no GPU was found ({}); use --device cpu", why);
  require(index >= 0 && index < count, "--device cuda:{}: this machine has GPUs 0 to {}", index,
          count - 1);
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, index), "reading the device");
  name = properties.name;
  processors = properties.multiProcessorCount;
  bytes = static_cast<int64_t>(properties.totalGlobalMem);
  require(
      properties.major == kHopper,
      "GPU {} is a {} of compute capability {}.{}; this build has kernels for Hopper (9.0) only",
      index, name, properties.major, properties.minor);
  check(cudaSetDevice(index), "choosing the device");
}

CudaBackend::CudaBackend(int device)
    : device_(device),
      products_(stream_.get()),
      copies_(stream_.get()),
      steps_(stream_.get()),
      uploads_(stream_.get(), steps_),
      scratch_(kScratchBytes),
      error_flag_(256),
      seen_flag_(256),
      arrivals_(kArrivalBytes) {}

std::string CudaBackend::description() const {
  return fmt::format("cuda:{} ({}, {})", device_.index, device_.name, format_bytes(device_.bytes));
}

void CudaBackend::refuse_in_step(std::string_view operation) const {
  require(!steps_.active(), "cuda {}: not in a step", operation);
}

double CudaBackend::last_step_seconds() {
  finish();
  return steps_.seconds();
}

double CudaBackend::seconds(const std::function<void()>& work) {
  refuse_in_step("timing");
  const Event start, end;
  start.record(stream_.get());
  work();
  end.record(stream_.get());
  finish();
  return end.seconds_since(start);
}

void CudaBackend::finish() {
  refuse_in_step("reading back");
  auto* bad = reinterpret_cast<int*>(seen_flag_.get());
  check(cudaMemcpyAsync(bad, error_flag_.get(), sizeof(int), cudaMemcpyDeviceToHost, stream_.get()),
        "running kernels");
  stream_.synchronize();
  if (*bad == 0) return;
  check(cudaMemsetAsync(error_flag_.get(), 0, sizeof(int), stream_.get()), "clearing the error");
  fail("cuda: an id or position at row {} is out of range", *bad - 1);
}

int64_t CudaBackend::parts(int64_t rows, int64_t columns) const {
  const int64_t fit = kScratchBytes / (2 * 4 * std::max<int64_t>(1, columns));
  require(fit >= 1, "cuda: {} columns are too many to sum over", columns);
  return std::clamp<int64_t>(rows / 16, 1, std::min(kMostParts, fit));
}

// --- embedding ---

void CudaBackend::embedding_forward(const Tensor& out, const WeightView& view, const Tensor& ids,
                                    bool accumulate) {
  const Tensor& table = plain(view);
  checks().rank("embedding", "table", table, 2);
  checks().activation("embedding", "table", table);
  checks().exact("embedding", "ids", ids, DType::kI32, {ids.dim(0)});
  checks().exact("embedding", "out", out, table.dtype(), {ids.dim(0), table.dim(1)});
  if (collected("embedding", out, table, ids, accumulate)) return;
  cuda::embedding_forward(last_dimension_rows(out), last_dimension_rows(table), ids.data<int32_t>(),
                          accumulate, element_of(table.dtype()), {error_flag_.get<int>()},
                          stream_.get());
}

void CudaBackend::embedding_backward(const Tensor& dtable, const Tensor& dout, const Tensor& ids) {
  refuse_in_step("embedding backward");
  checks().rank("embedding backward", "dtable", dtable, 2);
  checks().activation("embedding backward", "dout", dout);
  checks().exact("embedding backward", "dtable", dtable, DType::kF32,
                 {dtable.dim(0), dtable.dim(1)});
  checks().exact("embedding backward", "dout", dout, dout.dtype(), {ids.dim(0), dtable.dim(1)});
  const int64_t vocabulary = dtable.dim(0), fit = kScratchBytes / 4 - 2 * vocabulary;
  require(fit >= 1, "cuda: embedding backward of {} ids", vocabulary);
  for (int64_t t = 0; t < ids.dim(0); t += fit) {
    const int64_t n = std::min(fit, ids.dim(0) - t);
    cuda::embedding_backward(last_dimension_rows(dtable), last_dimension_rows(dout.slice(0, t, n)),
                             ids.data<int32_t>() + t, t, scratch_.get<int32_t>(),
                             element_of(dout.dtype()), {error_flag_.get<int>()}, stream_.get());
  }
}

// --- norms ---

void CudaBackend::norm_forward(NormKind kind, const Tensor& out, const Tensor& stats,
                               const Tensor& x, const Tensor& weight, const Tensor& bias,
                               double eps) {
  checks().activation("norm", "x", x);
  const Rows in = last_dimension_rows(x);
  checks().like("norm", "out", out, x.dtype(), x);
  checks().exact("norm", "weight", weight, x.dtype(), {in.cols});
  if (bias.defined()) checks().exact("norm", "bias", bias, x.dtype(), {in.cols});
  if (stats.defined()) checks().exact("norm", "stats", stats, DType::kF32, {in.rows, 2});
  if (collected("norm", kind, out, stats, x, weight, bias, eps)) return;
  cuda::norm_forward(kind == NormKind::kLayer, last_dimension_rows(out),
                     stats.defined() ? stats.data<float>() : nullptr,
                     stats.defined() ? stats.stride(0) : 0, in, weight.raw(),
                     bias.defined() ? bias.raw() : nullptr, static_cast<float>(eps),
                     element_of(x.dtype()), stream_.get());
}

void CudaBackend::norm_backward(NormKind kind, const Tensor& dx, bool accumulate_dx,
                                const Tensor& dweight, const Tensor& dbias, const Tensor& dy,
                                const Tensor& x, const Tensor& stats, const Tensor& weight) {
  refuse_in_step("norm backward");
  checks().activation("norm backward", "x", x);
  const Rows in = last_dimension_rows(x), grad = last_dimension_rows(dy);
  checks().like("norm backward", "dx", dx, x.dtype(), x);
  checks().like("norm backward", "dy", dy, x.dtype(), x);
  checks().exact("norm backward", "stats", stats, DType::kF32, {in.rows, 2});
  checks().exact("norm backward", "weight", weight, x.dtype(), {in.cols});
  for (const Tensor* sum : {&dweight, &dbias}) {
    if (sum->defined()) checks().exact("norm backward", "dweight", *sum, DType::kF32, {in.cols});
  }
  const Element type = element_of(x.dtype());
  if (type == Element::kBF16 &&
      wide_norm_backward(kind == NormKind::kLayer, last_dimension_rows(dx), accumulate_dx,
                         dweight.defined() ? dweight.data<float>() : nullptr,
                         dbias.defined() ? dbias.data<float>() : nullptr, grad, in,
                         stats.data<float>(), stats.stride(0), weight.raw(), scratch_.get<float>(),
                         stream_.get())) {
    return;
  }
  // First the sums over rows: dx may be the memory of dy.
  if (dweight.defined() || dbias.defined()) {
    norm_backward_weight(dweight.defined() ? dweight.data<float>() : nullptr,
                         dbias.defined() ? dbias.data<float>() : nullptr, grad, in,
                         stats.data<float>(), stats.stride(0), scratch_.get<float>(),
                         parts(in.rows, in.cols), type, stream_.get());
  }
  norm_backward_input(kind == NormKind::kLayer, last_dimension_rows(dx), accumulate_dx, grad, in,
                      stats.data<float>(), stats.stride(0), weight.raw(), type, stream_.get());
}

// --- pointwise ---

void CudaBackend::rope(const Tensor& x, const Tensor& table, const Tensor& positions,
                       bool inverse) {
  checks().rank("rope", "x", x, 3);
  checks().activation("rope", "x", x);
  checks().rank("rope", "table", table, 2);
  checks().exact("rope", "table", table, DType::kF32, {table.dim(0), table.dim(1)});
  checks().exact("rope", "positions", positions, DType::kI32, {x.dim(0)});
  require(table.dim(1) <= x.dim(2), "cuda rope: {} channels rotate in heads of {}", table.dim(1),
          x.dim(2));
  if (collected("rope", x, table, positions, inverse)) return;
  cuda::rope(last_dimension_rows(x), x.dim(1), table.data<float>(), table.stride(0),
             table.dim(1) / 2, table.dim(0), positions.data<int32_t>(), inverse,
             element_of(x.dtype()), {error_flag_.get<int>()}, stream_.get());
}

void CudaBackend::activation_forward(Activation act, const Tensor& out, const Tensor& gate,
                                     const Tensor& up) {
  checks().activation("activation", "gate", gate);
  checks().like("activation", "out", out, gate.dtype(), gate);
  if (up.defined()) checks().like("activation", "up", up, gate.dtype(), gate);
  if (collected("activation", act, out, gate, up)) return;
  cuda::activation_forward(
      static_cast<int>(act), last_dimension_rows(out), last_dimension_rows(gate),
      up.defined() ? last_dimension_rows(up) : Rows{}, element_of(gate.dtype()), stream_.get());
}

void CudaBackend::activation_backward(Activation act, const Tensor& dgate, const Tensor& dup,
                                      const Tensor& dout, const Tensor& gate, const Tensor& up) {
  activation_slopes(act, Tensor(), dgate, dup, dout, gate, up);
}

void CudaBackend::activation_both(Activation act, const Tensor& out, const Tensor& dgate,
                                  const Tensor& dup, const Tensor& dout, const Tensor& gate,
                                  const Tensor& up) {
  checks().like("activation", "out", out, gate.dtype(), gate);
  activation_slopes(act, out, dgate, dup, dout, gate, up);
}

void CudaBackend::activation_slopes(Activation act, const Tensor& out, const Tensor& dgate,
                                    const Tensor& dup, const Tensor& dout, const Tensor& gate,
                                    const Tensor& up) {
  refuse_in_step("activation backward");
  checks().activation("activation backward", "gate", gate);
  require(dup.defined() == up.defined(), "cuda activation backward: up and dup go together");
  checks().like("activation backward", "dgate", dgate, gate.dtype(), gate);
  checks().like("activation backward", "dout", dout, gate.dtype(), gate);
  if (up.defined()) {
    checks().like("activation backward", "up", up, gate.dtype(), gate);
    checks().like("activation backward", "dup", dup, gate.dtype(), gate);
  }
  cuda::activation_backward(
      static_cast<int>(act), out.defined() ? last_dimension_rows(out) : Rows{},
      last_dimension_rows(dgate), dup.defined() ? last_dimension_rows(dup) : Rows{},
      last_dimension_rows(dout), last_dimension_rows(gate),
      up.defined() ? last_dimension_rows(up) : Rows{}, element_of(gate.dtype()), stream_.get());
}

void CudaBackend::add(const Tensor& out, const Tensor& a, const Tensor& b) {
  checks().activation("add", "a", a);
  checks().like("add", "out", out, a.dtype(), a);
  checks().like("add", "b", b, a.dtype(), a);
  if (collected("add", out, a, b)) return;
  cuda::add(last_dimension_rows(out), last_dimension_rows(a), last_dimension_rows(b),
            element_of(a.dtype()), stream_.get());
}

// --- loss and optimizer ---

void CudaBackend::softmax_cross_entropy(const Tensor& losses, const Tensor& dlogits,
                                        const Tensor& logits, const Tensor& labels, double scale) {
  checks().rank("cross entropy", "logits", logits, 2);
  checks().exact("cross entropy", "logits", logits, DType::kF32, {logits.dim(0), logits.dim(1)});
  checks().exact("cross entropy", "losses", losses, DType::kF32, {logits.dim(0)});
  checks().exact("cross entropy", "labels", labels, DType::kI32, {logits.dim(0)});
  if (dlogits.defined()) {
    checks().activation("cross entropy", "dlogits", dlogits);
    checks().like("cross entropy", "dlogits", dlogits, dlogits.dtype(), logits);
  }
  if (collected("cross entropy", losses, dlogits, logits, labels, scale)) return;
  cuda::softmax_cross_entropy(
      losses.data<float>(), dlogits.defined() ? last_dimension_rows(dlogits) : Rows{},
      dlogits.defined() ? element_of(dlogits.dtype()) : Element::kF32, last_dimension_rows(logits),
      labels.data<int32_t>(), static_cast<float>(scale), {error_flag_.get<int>()}, stream_.get());
}

double CudaBackend::sum_of_squares(const Tensor& x) {
  refuse_in_step("sum of squares");
  checks().activation("sum of squares", "x", x);
  if (x.numel() == 0) return 0;
  double* result = scratch_.get<double>();
  cuda::sum_of_squares(result, result + 32, rows_of(x), element_of(x.dtype()), stream_.get());
  double sum = 0;
  check(cudaMemcpyAsync(&sum, result, sizeof(sum), cudaMemcpyDeviceToHost, stream_.get()),
        "downloading");
  finish();
  return sum;
}

void CudaBackend::adamw_step(const Tensor& weights, const Tensor& master, const Tensor& m,
                             const Tensor& v, const Tensor& gradient, const AdamW& o) {
  refuse_in_step("adamw");
  checks().activation("adamw", "weights", weights);
  for (const Tensor* x : {&master, &m, &v, &gradient}) {
    checks().like("adamw", "state", *x, DType::kF32, weights);
    require(x->is_contiguous() && weights.is_contiguous(), "cuda adamw: {} is not contiguous",
            x->shape_string());
  }
  cuda::adamw_step(weights.raw(), element_of(weights.dtype()), master.data<float>(),
                   m.data<float>(), v.data<float>(), gradient.data<float>(), weights.numel(),
                   adamw_args(o), stream_.get());
}

void CudaBackend::adamw_step_bf16(const Tensor& weights, const Tensor& m, const Tensor& v,
                                  const Tensor& gradient, const AdamW& o,
                                  const StochasticRounding& rounding) {
  for (const Tensor* x : {&weights, &m, &v, &gradient}) {
    const DType dtype = x == &gradient ? DType::kF32 : DType::kBF16;
    checks().like("adamw", "state", *x, dtype, weights);
    require(x->is_contiguous() && reinterpret_cast<uintptr_t>(x->raw()) % 16 == 0,
            "cuda adamw: {} is not contiguous at a multiple of 16 bytes", x->shape_string());
  }
  cuda::adamw_step_bf16(weights.raw(), m.raw(), v.raw(), gradient.data<float>(), weights.numel(),
                        adamw_args(o), rounding.seed, rounding.stream, stream_.get());
}

}  // namespace longgen::cuda

namespace longgen {

std::unique_ptr<Backend> make_cuda_backend(int device) {
  return std::make_unique<cuda::CudaBackend>(device);
}

}  // namespace longgen
