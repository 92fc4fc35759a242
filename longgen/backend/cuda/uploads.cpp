#include "longgen/backend/cuda/uploads.h"

#include <cstring>

#include "longgen/base/checked.h"
#include "longgen/base/error.h"
#include "longgen/base/units.h"

namespace longgen::cuda {

Uploads::Uploads(cudaStream_t stream, Steps& steps) : stream_(stream), steps_(steps) {
  void* host = nullptr;
  check(cudaMallocHost(&host, static_cast<size_t>(2 * kHalf)), "pinned memory");
  host_ = static_cast<std::byte*>(host);
  for (cudaEvent_t& event : left_) {
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "making an event");
    check(cudaEventRecord(event, stream_), "recording an event");
  }
}

Uploads::~Uploads() {
  for (cudaEvent_t event : left_) cudaEventDestroy(event);
  cudaFreeHost(host_);
}

void* Uploads::put(const void* data, int64_t bytes) {
  if (steps_.active()) return steps_.put(data, bytes, 0);
  require(bytes <= kHalf, "cuda: a call describes its sequences with {}, at most {} fit",
          format_bytes(bytes), format_bytes(kHalf));
  if (used_ + bytes > kHalf) {
    check(cudaEventRecord(left_[half_], stream_), "recording an event");
    half_ ^= 1;
    used_ = 0;
    check(cudaEventSynchronize(left_[half_]), "running kernels");
  }
  const int64_t at = half_ * kHalf + used_;
  used_ = round_up<int64_t>(used_ + bytes, 256);
  std::memcpy(host_ + at, data, static_cast<size_t>(bytes));
  void* to = device_.get<std::byte>() + at;
  check(
      cudaMemcpyAsync(to, host_ + at, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream_),
      "uploading");
  return to;
}

}  // namespace longgen::cuda
