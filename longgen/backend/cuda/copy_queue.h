// Copies between the device and pinned host memory that run beside the kernels.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>

#include "longgen/backend/cuda/runtime.h"
#include "longgen/tensor/arena.h"

namespace longgen::cuda {

// Host memory that the device reads and writes by itself. Taking it is slow (the system finds and
// clears every page), so it is taken once.
class PinnedMemory : public MemoryResource {
 public:
  Device device() const override { return Device::kHost; }
  void* allocate(int64_t bytes) override;
  void deallocate(void* data, int64_t bytes) override;
};

// Some of it that lives as long as the backend.
class PinnedBuffer {
 public:
  explicit PinnedBuffer(int64_t bytes)
      : data_(static_cast<std::byte*>(PinnedMemory().allocate(bytes))), bytes_(bytes) {}
  ~PinnedBuffer() { PinnedMemory().deallocate(data_, bytes_); }
  PinnedBuffer(const PinnedBuffer&) = delete;
  PinnedBuffer& operator=(const PinnedBuffer&) = delete;
  std::byte* get() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  std::byte* data_;
  int64_t bytes_;
};

// One after the other on a stream of their own.
class CopyQueue {
 public:
  // `compute`: whose kernels the copies wait for, and which waits for copies.
  explicit CopyQueue(cudaStream_t compute);
  ~CopyQueue();
  CopyQueue(const CopyQueue&) = delete;
  CopyQueue& operator=(const CopyQueue&) = delete;

  // Begins when the compute stream's work so far has run. Returns the copy's number, from 0.
  int64_t start(void* dst, const void* src, int64_t bytes);
  // The compute stream's further work runs after that copy. Of the oldest copies no event is left:
  // a younger one is waited for, which is after them.
  void wait(int64_t copy);

 private:
  static constexpr int64_t kEvents = 64;
  cudaEvent_t& event_of(int64_t copy) { return done_[static_cast<size_t>(copy % kEvents)]; }

  cudaStream_t compute_;
  Stream stream_;
  cudaEvent_t ready_ = nullptr;
  std::array<cudaEvent_t, kEvents> done_{};
  int64_t copies_ = 0;
};

}  // namespace longgen::cuda
