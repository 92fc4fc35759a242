#include "longgen/tensor/tensor.h"

#include "longgen/base/checked.h"

namespace longgen {

Tensor::Tensor(void* data, DType dtype, std::span<const int64_t> shape, Device device)
    : data_(data), dtype_(dtype), device_(device), rank_(static_cast<int>(shape.size())) {
  require(rank_ >= 1 && rank_ <= kMaxRank, "a tensor has 1 to {} dimensions, not {}", kMaxRank,
          rank_);
  int64_t stride = 1;
  for (int i = rank_ - 1; i >= 0; --i) {
    require(shape[i] >= 0, "dimension {} of a tensor is {}", i, shape[i]);
    shape_[i] = shape[i];
    stride_[i] = stride;
    stride = checked_mul(stride, shape[i]);
  }
}

int64_t Tensor::numel() const {
  if (rank_ == 0) return 0;
  int64_t n = 1;
  for (int i = 0; i < rank_; ++i) n *= shape_[i];
  return n;
}

bool Tensor::is_contiguous() const {
  int64_t stride = 1;
  for (int i = rank_ - 1; i >= 0; --i) {
    if (shape_[i] != 1 && stride_[i] != stride) return false;
    stride *= shape_[i];
  }
  return true;
}

std::string Tensor::shape_string() const {
  if (rank_ == 0) return "none";
  return fmt::format("[{}] {}", fmt::join(shape_.begin(), shape_.begin() + rank_, ", "),
                     dtype_name(dtype_));
}

Tensor Tensor::slice(int axis, int64_t begin, int64_t count) const {
  const int a = check_axis(axis);
  // Views are made at every step: nothing is formatted unless it is wrong.
  if (begin < 0 || count < 0 || begin > shape_[a] || count > shape_[a] - begin) {
    fail("slice [{}, {} + {}) of axis {} of {}", begin, begin, count, a, shape_string());
  }
  Tensor part = *this;
  part.shape_[a] = count;
  if (data_ != nullptr) {
    part.data_ = static_cast<std::byte*>(data_) + begin * stride_[a] * dtype_size(dtype_);
  }
  return part;
}

// Walks both shapes from the back; a group of old dimensions that is contiguous within itself may
// be cut anew, so views such as [T, heads * d] -> [T, heads, d] of strided rows work.
Tensor Tensor::reshape(std::initializer_list<int64_t> shape) const {
  Tensor view(data_, dtype_, shape, device_);
  const auto refuse = [&] {
    fail("{} cannot be seen as {}", shape_string(), Tensor(data_, dtype_, shape).shape_string());
  };
  if (view.numel() != numel()) refuse();
  if (is_contiguous()) {
    // A single row of a wider buffer stays one, as several would.
    if (view.rank_ > 0 && rank_ > 0 && shape_[0] == 1 && view.shape_[0] == 1) {
      view.stride_[0] = stride_[0];
    }
    return view;
  }
  // The stride of an axis of one entry says nothing.
  const auto before = [this](int axis) {
    while (axis >= 0 && shape_[axis] == 1) --axis;
    return axis;
  };
  int old_axis = before(rank_ - 1);
  for (int axis = view.rank_ - 1; axis >= 0;) {
    if (old_axis < 0) {  // what is left of the new shape has one entry
      view.stride_[axis] = 1;
      --axis;
      continue;
    }
    int64_t old_count = shape_[old_axis], new_count = view.shape_[axis];
    int64_t stride = stride_[old_axis];
    view.stride_[axis] = stride;
    while (old_count != new_count) {
      if (new_count < old_count) {
        if (axis == 0) refuse();
        --axis;
        view.stride_[axis] = stride * new_count;
        new_count *= view.shape_[axis];
      } else {
        const int outer = before(old_axis - 1);
        if (outer < 0 || stride_[outer] != stride * old_count) {
          fail("strides of {} do not allow {}", shape_string(), view.shape_string());
        }
        old_axis = outer;
        old_count *= shape_[old_axis];
      }
    }
    --axis;
    old_axis = before(old_axis - 1);
  }
  return view;
}

}  // namespace longgen
