// Small helpers over tensors and arenas.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "longgen/backend/backend.h"
#include "longgen/tensor/arena.h"

namespace longgen::model {

// The first n entries of the first axis; undefined stays undefined.
inline Tensor first(const Tensor& x, int64_t n) { return x.defined() ? x.slice(0, 0, n) : x; }

inline Tensor rows(const Tensor& x, int64_t begin, int64_t count) {
  return x.defined() ? x.slice(0, begin, count) : x;
}

// The front of x's memory under another shape of at most as many elements.
inline Tensor front(const Tensor& x, std::initializer_list<int64_t> shape) {
  if (!x.defined()) return x;
  const Tensor view(x.raw(), x.dtype(), shape, x.device());
  if (view.numel() > x.numel()) {
    fail("{} does not fit in {}", view.shape_string(), x.shape_string());
  }
  return view;
}

// a [T, m] and b [T, n] as [T, m + n] where b's columns follow a's in memory, else undefined.
inline Tensor side_by_side(const Tensor& a, const Tensor& b) {
  const int64_t columns = a.dim(1) + b.dim(1);
  const auto* end = static_cast<std::byte*>(a.raw()) + a.dim(1) * dtype_size(a.dtype());
  if (a.raw() == nullptr || b.raw() != end || a.dtype() != b.dtype() || a.dim(0) != b.dim(0) ||
      a.stride(0) != b.stride(0) || columns > a.stride(0)) {
    return {};
  }
  return Tensor(a.raw(), a.dtype(), {a.dim(0), a.stride(0)}, a.device()).slice(1, 0, columns);
}

// a [m, k] and b [n, k] as [m + n, k] where b follows a in memory, else undefined.
inline Tensor one_after_the_other(const Tensor& a, const Tensor& b) {
  if (a.raw() == nullptr || b.raw() != static_cast<std::byte*>(a.raw()) + a.bytes() ||
      a.dtype() != b.dtype() || a.dim(1) != b.dim(1) || !a.is_contiguous() || !b.is_contiguous()) {
    return {};
  }
  return Tensor(a.raw(), a.dtype(), {a.dim(0) + b.dim(0), a.dim(1)}, a.device());
}

// Weights [m, k] and [n, k] as one [m + n, k] where b follows a in memory, else undefined.
inline WeightView one_after_the_other(const WeightView& a, const WeightView& b) {
  if (a.is_plain() && b.is_plain()) return one_after_the_other(a.data, b.data);
  const auto* end = static_cast<std::byte*>(a.data.raw()) + a.data.bytes();
  if (a.scheme != b.scheme || a.k() != b.k() || a.n() % quantized::kPanelRows != 0 ||
      a.data.raw() == nullptr || b.data.raw() != end) {
    return {};
  }
  const int64_t bytes = a.data.bytes() + b.data.bytes();
  return {Tensor(a.data.raw(), DType::kU8, {bytes}, a.data.device()), a.scheme, a.n() + b.n(),
          a.k()};
}

// [T, heads, head_dim] as [T, heads * head_dim].
inline Tensor merge_heads(const Tensor& x) { return x.reshape({x.dim(0), x.dim(1) * x.dim(2)}); }

// Numbers of the host into x [n]. An x that is only measured is left alone.
template <typename T>
void upload(Backend& backend, const Tensor& x, std::span<const T> values) {
  if (x.raw() == nullptr) return;
  if (x.device() == Device::kHost) {
    if (x.numel() != static_cast<int64_t>(values.size()) || x.dtype() != DTypeOf<T>::value) {
      fail("{} values for {}", values.size(), x.shape_string());
    }
    std::memcpy(x.raw(), values.data(), values.size_bytes());
    return;
  }
  backend.copy(x, Tensor::of(values));
}

// The numbers of x [n], which is acc, on the host.
inline std::vector<double> download(Backend& backend, const Tensor& x) {
  const auto n = static_cast<size_t>(x.numel());
  const auto read = [&]<typename T>(std::vector<T> values) {
    if (x.device() == Device::kHost) {
      std::memcpy(values.data(), x.raw(), n * sizeof(T));
    } else {
      backend.copy(Tensor::of(std::span(values)), x);
    }
    return std::vector<double>(values.begin(), values.end());
  };
  return x.dtype() == DType::kF64 ? read(std::vector<double>(n)) : read(std::vector<float>(n));
}

// An arena of exactly what `plan` allocates: measured first, then planned again over `memory`.
inline std::unique_ptr<Arena> planned_arena(const std::string& name, MemoryResource& memory,
                                            const std::function<void(Arena&)>& plan) {
  NoMemory nothing;
  Arena measure(name, nothing, INT64_MAX);
  plan(measure);
  auto arena = std::make_unique<Arena>(name, memory, measure.high_water_bytes());
  plan(*arena);
  return arena;
}

}  // namespace longgen::model
