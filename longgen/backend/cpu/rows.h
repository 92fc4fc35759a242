// Walking tensors row by row, or in even stretches where they are contiguous, in parallel.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "longgen/base/checked.h"
#include "longgen/base/thread_pool.h"
#include "longgen/tensor/tensor.h"

namespace longgen::cpu {

// All dimensions but the last form the rows. T is the stored type (uint16_t for bf16).
class Rows {
 public:
  explicit Rows(const Tensor& x)
      : data_(static_cast<std::byte*>(x.raw())),
        element_bytes_(dtype_size(x.dtype())),
        length_(x.dim(-1)),
        count_(length_ == 0 ? 0 : x.numel() / length_) {
    for (int axis = x.rank() - 2; axis >= 0; --axis) push_axis(x.dim(axis), x.stride(axis));
  }

  int64_t count() const { return count_; }
  int64_t length() const { return length_; }

  // In elements.
  int64_t offset(int64_t row) const {
    if (axes_ <= 1) return row * stride_[0];
    int64_t offset = 0;
    for (int i = 0; i < axes_; ++i) {
      offset += row % dim_[i] * stride_[i];
      row /= dim_[i];
    }
    return offset;
  }
  template <typename T>
  T* at(int64_t row) const {
    return reinterpret_cast<T*>(data_ + offset(row) * element_bytes_);
  }

 private:
  // From the innermost out; an axis that continues the one within is merged with it.
  void push_axis(int64_t dim, int64_t stride) {
    if (dim == 1) return;
    if (axes_ > 0 && stride == dim_[axes_ - 1] * stride_[axes_ - 1]) {
      dim_[axes_ - 1] *= dim;
      return;
    }
    dim_[axes_] = dim;
    stride_[axes_++] = stride;
  }

  std::byte* data_;
  int64_t element_bytes_, length_, count_;
  int axes_ = 0;
  std::array<int64_t, Tensor::kMaxRank> dim_{}, stride_{};
};

// Elements below which waking another thread costs more than it gains.
constexpr int64_t kInlineElements = 8192;

// body(begin, end, thread) over [0, count) items of about `elements` elements each.
template <typename Body>
void for_items(ThreadPool& pool, int64_t count, int64_t elements, const Body& body) {
  if (count <= 0) return;
  if (count * elements <= kInlineElements) {
    body(int64_t{0}, count, 0);
  } else {
    pool.for_ranges(count, body);
  }
}

// body(offsets, n): stretches of n consecutive elements of tensors of one shape; offsets (in
// elements) are where the stretch begins in each. The cut does not depend on the number of threads.
template <size_t kCount, typename Body>
void for_stretches(ThreadPool& pool, const std::array<const Tensor*, kCount>& tensors,
                   const Body& body) {
  constexpr int64_t kStretch = 4096;
  const int64_t numel = tensors[0]->numel();
  if (numel == 0) return;
  if (std::all_of(tensors.begin(), tensors.end(), [](auto* x) { return x->is_contiguous(); })) {
    for_items(pool, ceil_div(numel, kStretch), kStretch, [&](int64_t begin, int64_t end, int) {
      std::array<int64_t, kCount> offsets;
      for (int64_t i = begin; i < end; ++i) {
        offsets.fill(i * kStretch);
        body(offsets, std::min(kStretch, numel - i * kStretch));
      }
    });
    return;
  }
  std::vector<Rows> rows;
  rows.reserve(kCount);
  for (const Tensor* x : tensors) rows.emplace_back(*x);
  for_items(pool, rows[0].count(), rows[0].length(), [&](int64_t begin, int64_t end, int) {
    std::array<int64_t, kCount> offsets;
    for (int64_t row = begin; row < end; ++row) {
      for (size_t i = 0; i < kCount; ++i) offsets[i] = rows[i].offset(row);
      body(offsets, rows[0].length());
    }
  });
}

}  // namespace longgen::cpu
