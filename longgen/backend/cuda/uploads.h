// Small arrays that describe a call, from the host to the device.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>

#include "longgen/backend/cuda/runtime.h"
#include "longgen/backend/cuda/steps.h"

namespace longgen::cuda {

// Small arrays from the host to the device without waiting: written to pinned memory, copied in
// stream order. What is uploaded stays valid on the device until as much again has been uploaded.
// In a step they are part of its one copy.
class Uploads {
 public:
  Uploads(cudaStream_t stream, Steps& steps);
  ~Uploads();
  Uploads(const Uploads&) = delete;
  Uploads& operator=(const Uploads&) = delete;

  // Returns the device address of a copy of `bytes` bytes. Throws Error beyond kHalf.
  void* put(const void* data, int64_t bytes);
  template <typename T>
  const T* put(std::span<const T> values) {
    return static_cast<const T*>(put(values.data(), static_cast<int64_t>(values.size_bytes())));
  }

 private:
  static constexpr int64_t kHalf = int64_t{8} << 20;

  cudaStream_t stream_;
  Steps& steps_;
  Buffer device_{2 * kHalf};
  std::byte* host_ = nullptr;
  cudaEvent_t left_[2] = {};  // recorded when a half has been filled
  int half_ = 0;
  int64_t used_ = 0;
};

}  // namespace longgen::cuda
