// What every part of the cuda backend shares: errors, memory, the stream, buffers of its own.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "longgen/tensor/arena.h"

namespace longgen::cuda {

constexpr int kHopper = 9;  // compute capability that the kernels are built for

// Throws Error naming what was being done.
void check(cudaError_t status, std::string_view what);

// How many GPUs the driver lists; where there is none, `why` says for what reason.
int device_count(std::string& why);

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

}  // namespace longgen::cuda
