#include "longgen/backend/cuda/copy_queue.h"

#include "longgen/base/error.h"
#include "longgen/base/units.h"

namespace longgen::cuda {

void* PinnedMemory::allocate(int64_t bytes) {
  if (bytes == 0) return nullptr;
  void* data = nullptr;
  const cudaError_t status = cudaMallocHost(&data, static_cast<size_t>(bytes));
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    fail("the host has no {} of pinned memory for what is offloaded; offload less (train.offload)",
         format_bytes(bytes));
  }
  check(status, "pinned memory");
  return data;
}

void PinnedMemory::deallocate(void* data, int64_t) { cudaFreeHost(data); }

CopyQueue::CopyQueue(cudaStream_t compute) : compute_(compute) {
  check(cudaEventCreateWithFlags(&ready_, cudaEventDisableTiming), "making an event");
  for (cudaEvent_t& event : done_) {
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "making an event");
  }
}

CopyQueue::~CopyQueue() {
  cudaStreamSynchronize(stream_.get());
  for (cudaEvent_t event : done_) cudaEventDestroy(event);
  cudaEventDestroy(ready_);
}

int64_t CopyQueue::start(void* dst, const void* src, int64_t bytes) {
  check(cudaEventRecord(ready_, compute_), "recording an event");
  check(cudaStreamWaitEvent(stream_.get(), ready_, 0), "waiting for kernels");
  check(cudaMemcpyAsync(dst, src, static_cast<size_t>(bytes), cudaMemcpyDefault, stream_.get()),
        "copying");
  check(cudaEventRecord(event_of(copies_), stream_.get()), "recording an event");
  return copies_++;
}

void CopyQueue::wait(int64_t copy) {
  require(copy >= 0 && copy < copies_, "cuda: copy {} of {}", copy, copies_);
  check(cudaStreamWaitEvent(compute_, event_of(copy), 0), "waiting for a copy");
}

}  // namespace longgen::cuda
