// Embedding, norms, rotary embedding, bias gradients.
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
using cpu::Rows;

namespace {

// Columns that one thread sums at a time.
constexpr int64_t kColumns = 64;

}  // namespace

void CpuBackend::embedding_forward(const Tensor& out, const WeightView& weight, const Tensor& ids,
                                   bool accumulate) {
  constexpr std::string_view kOp = "embedding_forward";
  if (!weight.is_plain()) return quantized_.embedding_forward(out, weight, ids, accumulate);
  const Tensor& table = weight.data;
  check_activation(kOp, "the table", table);
  check_rank(kOp, "the table", table, 2);
  check_rank(kOp, "ids", ids, 1);
  const int64_t rows = ids.dim(0), d = table.dim(1);
  check(kOp, "ids", ids, DType::kI32, {rows});
  check(kOp, "out", out, table.dtype(), {rows, d});
  check_ids(kOp, ids, table.dim(0));
  const int32_t* id = ids.data<int32_t>();
  by_dtype(table.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const auto add = row_kernels<T>(context_.isa).add;
    const Rows to(out), from(table);
    for_items(pool_, rows, d, [&](int64_t begin, int64_t end, int) {
      for (int64_t t = begin; t < end; ++t) {
        T* row = to.at<T>(t);
        const T* entry = from.at<T>(id[t]);
        if (accumulate) {
          add(row, row, entry, d);
        } else {
          std::memcpy(row, entry, static_cast<size_t>(d) * sizeof(T));
        }
      }
    });
  });
}

// Threads take columns, so that every row's sum runs in ascending order.
void CpuBackend::embedding_backward(const Tensor& dtable, const Tensor& dout, const Tensor& ids) {
  constexpr std::string_view kOp = "embedding_backward";
  check_activation(kOp, "dout", dout);
  check_rank(kOp, "dtable", dtable, 2);
  check_rank(kOp, "ids", ids, 1);
  const int64_t rows = ids.dim(0), d = dtable.dim(1);
  check(kOp, "ids", ids, DType::kI32, {rows});
  check(kOp, "dtable", dtable, DType::kF32, {dtable.dim(0), d});
  check(kOp, "dout", dout, dout.dtype(), {rows, d});
  check_ids(kOp, ids, dtable.dim(0));
  const int32_t* id = ids.data<int32_t>();
  by_dtype(dout.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const auto accumulate = row_kernels<T>(context_.isa).accumulate;
    const Rows to(dtable), from(dout);
    for_items(pool_, ceil_div(d, kColumns), kColumns * rows, [&](int64_t begin, int64_t end, int) {
      const int64_t first = begin * kColumns, n = std::min(end * kColumns, d) - first;
      for (int64_t t = 0; t < rows; ++t) {
        accumulate(to.at<float>(id[t]) + first, from.at<T>(t) + first, n);
      }
    });
  });
}

void CpuBackend::linear_backward_bias(const Tensor& dbias, const Tensor& dy) {
  constexpr std::string_view kOp = "linear_backward_bias";
  check_activation(kOp, "dy", dy);
  check_rank(kOp, "dy", dy, 2);
  const int64_t rows = dy.dim(0), n = dy.dim(1);
  check(kOp, "dbias", dbias, DType::kF32, {n});
  by_dtype(dy.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const auto accumulate = row_kernels<T>(context_.isa).accumulate;
    const Rows from(dy);
    float* sums = dbias.data<float>();
    for_items(pool_, ceil_div(n, kColumns), kColumns * rows, [&](int64_t begin, int64_t end, int) {
      const int64_t first = begin * kColumns, count = std::min(end * kColumns, n) - first;
      for (int64_t t = 0; t < rows; ++t) accumulate(sums + first, from.at<T>(t) + first, count);
    });
  });
}

void CpuBackend::norm_forward(NormKind kind, const Tensor& out, const Tensor& stats,
                              const Tensor& x, const Tensor& weight, const Tensor& bias,
                              double eps) {
  constexpr std::string_view kOp = "norm_forward";
  check_activation(kOp, "x", x);
  const Rows from(x);
  const int64_t rows = from.count(), d = from.length();
  check_like(kOp, "out", out, x.dtype(), x);
  check(kOp, "weight", weight, x.dtype(), {d});
  if (bias.defined()) check(kOp, "bias", bias, x.dtype(), {d});
  if (stats.defined()) check(kOp, "stats", stats, DType::kF32, {rows, 2});
  by_dtype(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const auto norm = row_kernels<T>(context_.isa).norm_forward;
    const Rows to(out);
    const T* w = static_cast<const T*>(weight.raw());
    const T* b = bias.defined() ? static_cast<const T*>(bias.raw()) : nullptr;
    for_items(pool_, rows, d, [&](int64_t begin, int64_t end, int) {
      for (int64_t r = begin; r < end; ++r) {
        float* s = stats.defined() ? stats.data<float>() + r * stats.stride(0) : nullptr;
        norm({kind == NormKind::kLayer, d, static_cast<float>(eps), s}, to.at<T>(r), from.at<T>(r),
             w, b);
      }
    });
  });
}

// Each thread sums dweight and dbias over its rows; the parts are then added in the threads' order.
void CpuBackend::norm_backward(NormKind kind, const Tensor& dx, bool accumulate_dx,
                               const Tensor& dweight, const Tensor& dbias, const Tensor& dy,
                               const Tensor& x, const Tensor& stats, const Tensor& weight) {
  constexpr std::string_view kOp = "norm_backward";
  check_activation(kOp, "x", x);
  const Rows from(x), gradient(dy), to(dx);
  const int64_t rows = from.count(), d = from.length();
  check_like(kOp, "dx", dx, x.dtype(), x);
  check_like(kOp, "dy", dy, x.dtype(), x);
  check(kOp, "weight", weight, x.dtype(), {d});
  check(kOp, "stats", stats, DType::kF32, {rows, 2});
  if (dweight.defined()) check(kOp, "dweight", dweight, DType::kF32, {d});
  if (dbias.defined()) check(kOp, "dbias", dbias, DType::kF32, {d});
  const int64_t stride = round_up<int64_t>(d, 16), parts = 2 * pool_.size();
  float* sums = partials_.get_array<float>(parts * stride);
  std::memset(sums, 0, static_cast<size_t>(parts * stride) * sizeof(float));
  by_dtype(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const auto norm = row_kernels<T>(context_.isa).norm_backward;
    const T* w = static_cast<const T*>(weight.raw());
    for_items(pool_, rows, d, [&](int64_t begin, int64_t end, int thread) {
      float* part = sums + 2 * thread * stride;
      for (int64_t r = begin; r < end; ++r) {
        norm({kind == NormKind::kLayer, d, 0, stats.data<float>() + r * stats.stride(0)},
             to.at<T>(r), accumulate_dx, dweight.defined() ? part : nullptr,
             dbias.defined() ? part + stride : nullptr, gradient.at<T>(r), from.at<T>(r), w);
      }
    });
  });
  const auto accumulate = row_kernels<float>(context_.isa).accumulate;
  for (int thread = 0; thread < pool_.size(); ++thread) {
    const float* part = sums + 2 * thread * stride;
    if (dweight.defined()) accumulate(dweight.data<float>(), part, d);
    if (dbias.defined()) accumulate(dbias.data<float>(), part + stride, d);
  }
}

void CpuBackend::rope(const Tensor& x, const Tensor& table, const Tensor& positions, bool inverse) {
  constexpr std::string_view kOp = "rope";
  check_activation(kOp, "x", x);
  check_rank(kOp, "x", x, 3);
  check_rank(kOp, "the table", table, 2);
  const int64_t rows = x.dim(0), heads = x.dim(1), half = table.dim(1) / 2;
  check(kOp, "the table", table, DType::kF32, {table.dim(0), 2 * half});
  require(2 * half <= x.dim(2), "cpu rope: {} channels rotate, but heads have {}", 2 * half,
          x.dim(2));
  check(kOp, "positions", positions, DType::kI32, {rows});
  check_ids(kOp, positions, table.dim(0));
  const int32_t* position = positions.data<int32_t>();
  by_dtype(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const auto rotate = row_kernels<T>(context_.isa).rope;
    for_items(pool_, rows, heads * 2 * half, [&](int64_t begin, int64_t end, int) {
      for (int64_t t = begin; t < end; ++t) {
        const float* cos = table.data<float>() + position[t] * table.stride(0);
        rotate(static_cast<T*>(x.raw()) + t * x.stride(0), heads, x.stride(1), cos, cos + half,
               half, inverse);
      }
    });
  });
}

}  // namespace longgen
