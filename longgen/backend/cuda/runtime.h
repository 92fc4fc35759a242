// What every part of the cuda backend shares: errors, memory, the stream, buffers of its own.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <string_view>

#include "longgen/tensor/arena.h"

namespace longgen::cuda {

// Throws Error naming what was being done.
void check(cudaError_t status, std::string_view what);

class CudaMemory : public MemoryResource {
 public:
  Device device() const override { return Device::kCuda; }
  // 256-byte aligned and zero-filled. Throws Error with the size asked for and what is free.
  void* allocate(int64_t bytes) override;
  void deallocate(void* data, int64_t bytes) override;
  int64_t available_bytes() const override;
};

// A stream of this thread's current device.
class Stream {
 public:
  Stream();
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }
  void synchronize() const;

 private:
  cudaStream_t stream_ = nullptr;
};

// A point in a stream, for timing.
class Event {
 public:
  Event();
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(cudaStream_t stream) const;
  // Both have been reached.
  double seconds_since(const Event& start) const;

 private:
  cudaEvent_t event_ = nullptr;
};

// Device memory that lives as long as the backend.
class Buffer {
 public:
  explicit Buffer(int64_t bytes);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  template <typename T = void>
  T* get() const {
    return static_cast<T*>(data_);
  }
  int64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_;
};

// Small arrays from the host to the device without waiting: written to pinned memory, copied in
// stream order. What is uploaded stays valid on the device until as much again has been uploaded.
class Uploads {
 public:
  explicit Uploads(cudaStream_t stream);
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
  Buffer device_{2 * kHalf};
  std::byte* host_ = nullptr;
  cudaEvent_t left_[2] = {};  // recorded when a half has been filled
  int half_ = 0;
  int64_t used_ = 0;
};

}  // namespace longgen::cuda
