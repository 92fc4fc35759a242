// Zeros and copies of the cuda backend, between devices and types.
#include <algorithm>
#include <cstring>

#include "longgen/backend/cuda/cuda_backend.h"
#include "longgen/base/error.h"
#include "longgen/base/units.h"

namespace longgen::cuda {

void CudaBackend::zero(const Tensor& x) {
  if (x.numel() == 0 || collected("zero", x)) return;
  if (x.is_contiguous()) {
    check(cudaMemsetAsync(x.raw(), 0, static_cast<size_t>(x.bytes()), stream_.get()), "zeroing");
    return;
  }
  zero_rows(last_dimension_rows(x), dtype_size(x.dtype()), stream_.get());
}

void CudaBackend::copy(const Tensor& dst, const Tensor& src) {
  const auto a = dst.shape(), b = src.shape();
  if (!std::equal(a.begin(), a.end(), b.begin(), b.end())) {
    fail("cuda copy: {} from {}", dst.shape_string(), src.shape_string());
  }
  if (src.numel() == 0) return;
  const bool to_device = dst.device() == longgen::Device::kCuda;
  const bool from_device = src.device() == longgen::Device::kCuda;
  require(to_device || from_device, "cuda copy: both tensors are in host memory");
  if (to_device && from_device) {
    if (collected("copy", dst, src)) return;
    const bool same = dst.dtype() == src.dtype();
    if (same && dst.is_contiguous() && src.is_contiguous()) {
      check(cudaMemcpyAsync(dst.raw(), src.raw(), static_cast<size_t>(src.bytes()),
                            cudaMemcpyDeviceToDevice, stream_.get()),
            "copying");
      return;
    }
    const bool flat = dst.is_contiguous() && src.is_contiguous();
    const Rows to = flat ? rows_of(dst) : last_dimension_rows(dst);
    const Rows from = flat ? rows_of(src) : last_dimension_rows(src);
    // Integers move as floats of their size: no conversion takes place.
    const auto type = [&](DType t) { return t == DType::kI32 ? Element::kF32 : element_of(t); };
    convert_rows(to, type(dst.dtype()), from, type(src.dtype()), stream_.get());
  } else if (to_device) {
    upload(dst, src);
  } else {
    download(dst, src);
  }
}

int64_t CudaBackend::copy_beside(const Tensor& dst, const Tensor& src) {
  const auto a = dst.shape(), b = src.shape();
  require(std::equal(a.begin(), a.end(), b.begin(), b.end()) && dst.dtype() == src.dtype() &&
              dst.is_contiguous() && src.is_contiguous(),
          "cuda copy beside: {} from {}", dst.shape_string(), src.shape_string());
  return copies_.start(dst.raw(), src.raw(), src.bytes());
}

// Rows of the host through the scratch buffer, as many at a time as fit; the device converts.
void CudaBackend::upload(const Tensor& dst, const Tensor& src) {
  if (steps_.active()) {
    if (dst.dtype() != src.dtype() || !dst.is_contiguous() || !src.is_contiguous()) {
      fail("cuda copy: in a step, {} from the host is converted or not contiguous",
           dst.shape_string());
    }
    const void* staged = steps_.put(src.raw(), src.bytes(), 0);
    if (collected("copy from the host", dst)) return;
    return check(cudaMemcpyAsync(dst.raw(), staged, static_cast<size_t>(src.bytes()),
                                 cudaMemcpyDeviceToDevice, stream_.get()),
                 "copying");
  }
  if (dst.dtype() == src.dtype() && dst.is_contiguous() && src.is_contiguous()) {
    check(cudaMemcpyAsync(dst.raw(), src.raw(), static_cast<size_t>(src.bytes()),
                          cudaMemcpyHostToDevice, stream_.get()),
          "uploading");
    return;
  }
  require(src.is_contiguous(), "cuda copy: {} in host memory is not contiguous",
          src.shape_string());
  const bool flat = dst.is_contiguous();
  Rows to = flat ? rows_of(dst) : last_dimension_rows(dst);
  require(to.inner == 1 || to.rows * to.cols * 8 <= scratch_.bytes(),
          "cuda copy: {} on the device is not contiguous", dst.shape_string());
  const int64_t row_bytes = to.cols * dtype_size(src.dtype());
  const int64_t rows = to.rows, each = std::max<int64_t>(1, scratch_.bytes() / row_bytes);
  require(row_bytes <= scratch_.bytes(), "cuda copy: rows of {}", format_bytes(row_bytes));
  for (int64_t r = 0; r < rows; r += each) {
    const int64_t count = std::min(each, rows - r);
    check(cudaMemcpyAsync(scratch_.get(), static_cast<const std::byte*>(src.raw()) + r * row_bytes,
                          static_cast<size_t>(count * row_bytes), cudaMemcpyHostToDevice,
                          stream_.get()),
          "uploading");
    Rows part = to;
    part.rows = count;
    if (to.inner == 1) {
      part.data = static_cast<std::byte*>(to.data) + r * to.outer_stride * dtype_size(dst.dtype());
    }
    const Rows from{
        .data = scratch_.get(), .rows = count, .cols = to.cols, .outer_stride = to.cols};
    convert_rows(part, element_of(dst.dtype()), from, element_of(src.dtype()), stream_.get());
  }
  stream_.synchronize();  // pageable memory of the caller may go away
}

void CudaBackend::download(const Tensor& dst, const Tensor& src) {
  refuse_in_step("reading back");
  require(dst.is_contiguous(), "cuda copy: {} in host memory is not contiguous",
          dst.shape_string());
  if (dst.dtype() == src.dtype() && src.is_contiguous()) {
    const bool small = src.bytes() <= arrivals_.bytes();
    check(cudaMemcpyAsync(small ? arrivals_.get() : dst.raw(), src.raw(),
                          static_cast<size_t>(src.bytes()), cudaMemcpyDeviceToHost, stream_.get()),
          "downloading");
    finish();
    if (small) std::memcpy(dst.raw(), arrivals_.get(), static_cast<size_t>(src.bytes()));
    return;
  }
  const Rows from = src.is_contiguous() ? rows_of(src) : last_dimension_rows(src);
  const int64_t row_bytes = from.cols * dtype_size(dst.dtype());
  require(row_bytes <= scratch_.bytes(), "cuda copy: rows of {}", format_bytes(row_bytes));
  const int64_t each = from.inner == 1 ? scratch_.bytes() / row_bytes : from.rows;
  require(each * row_bytes <= scratch_.bytes(), "cuda copy: {} on the device is not contiguous",
          src.shape_string());
  for (int64_t r = 0; r < from.rows; r += each) {
    const int64_t count = std::min(each, from.rows - r);
    Rows part = from;
    part.rows = count;
    if (from.inner == 1) {
      part.data =
          static_cast<std::byte*>(from.data) + r * from.outer_stride * dtype_size(src.dtype());
    }
    const Rows to{
        .data = scratch_.get(), .rows = count, .cols = from.cols, .outer_stride = from.cols};
    convert_rows(to, element_of(dst.dtype()), part, element_of(src.dtype()), stream_.get());
    check(cudaMemcpyAsync(static_cast<std::byte*>(dst.raw()) + r * row_bytes, scratch_.get(),
                          static_cast<size_t>(count * row_bytes), cudaMemcpyDeviceToHost,
                          stream_.get()),
          "downloading");
  }
  finish();
}

}  // namespace longgen::cuda
