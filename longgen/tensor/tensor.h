// A non-owning view of numbers: pointer, element type, up to four dimensions with 64-bit strides
// (in elements), last dimension contiguous.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

#include "longgen/base/error.h"
#include "longgen/tensor/dtype.h"

namespace longgen {

enum class Device : uint8_t { kHost, kCuda };

class Tensor {
 public:
  static constexpr int kMaxRank = 4;

  Tensor() = default;
  // A contiguous tensor over `data` (which may be null: a tensor that is only measured).
  Tensor(void* data, DType dtype, std::span<const int64_t> shape, Device device = Device::kHost);
  Tensor(void* data, DType dtype, std::initializer_list<int64_t> shape,
         Device device = Device::kHost)
      : Tensor(data, dtype, std::span<const int64_t>(shape.begin(), shape.size()), device) {}
  // A view of a std::vector or array.
  template <typename T>
  static Tensor of(std::span<T> values) {
    return Tensor(const_cast<std::remove_const_t<T>*>(values.data()),
                  DTypeOf<std::remove_const_t<T>>::value, {static_cast<int64_t>(values.size())});
  }

  bool defined() const { return rank_ > 0; }  // a default-constructed tensor stands for "none"
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  int rank() const { return rank_; }
  int64_t dim(int i) const { return shape_[check_axis(i)]; }      // negative: from the end
  int64_t stride(int i) const { return stride_[check_axis(i)]; }  // in elements
  std::span<const int64_t> shape() const { return {shape_.data(), static_cast<size_t>(rank_)}; }
  int64_t numel() const;
  int64_t bytes() const { return numel() * dtype_size(dtype_); }
  bool is_contiguous() const;
  std::string shape_string() const;  // "[2048, 9, 64] bf16"

  void* raw() const { return data_; }
  // The pointer as T*; throws unless dtype() is T's.
  template <typename T>
  T* data() const {
    if (DTypeOf<T>::value != dtype_) {
      fail("tensor {} is used as {}", shape_string(), dtype_name(DTypeOf<T>::value));
    }
    return static_cast<T*>(data_);
  }

  // `count` entries of `axis` from `begin`; shares memory.
  Tensor slice(int axis, int64_t begin, int64_t count) const;
  // The same elements under another shape. Splits or merges dimensions; throws when strides forbid
  // it.
  Tensor reshape(std::initializer_list<int64_t> shape) const;

 private:
  int check_axis(int i) const {
    const int axis = i < 0 ? i + rank_ : i;
    if (axis < 0 || axis >= rank_) fail("axis {} of a tensor of rank {}", i, rank_);
    return axis;
  }

  void* data_ = nullptr;
  DType dtype_ = DType::kF32;
  Device device_ = Device::kHost;
  int rank_ = 0;
  std::array<int64_t, kMaxRank> shape_{};
  std::array<int64_t, kMaxRank> stride_{};
};

}  // namespace longgen
