#include "longgen/backend/cuda/runtime.h"

#include "longgen/base/error.h"
#include "longgen/base/units.h"

namespace longgen::cuda {

void check(cudaError_t status, std::string_view what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // the next call starts clean, unless the context is lost
  fail("cuda: {}: {} ({})", what, cudaGetErrorString(status), cudaGetErrorName(status));
}

int device_count(std::string& why) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) return count;
  cudaGetLastError();
  if (status == cudaSuccess || status == cudaErrorNoDevice) {
    why = "the driver lists none";
  } else if (status == cudaErrorInsufficientDriver) {  // also where there is no driver at all
    why = fmt::format("there is no NVIDIA driver, or one older than CUDA {}.{} asks for",
                      CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
  } else {
    why = cudaGetErrorString(status);
  }
  return 0;
}

void* CudaMemory::allocate(int64_t bytes) {
  if (bytes == 0) return nullptr;
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, static_cast<size_t>(bytes));
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    size_t available = 0, total = 0;
    cudaMemGetInfo(&available, &total);
    fail(
        "the GPU has no {} left: {} of {} are free; take a shorter context, a smaller batch or a "
        "smaller model",
        format_bytes(bytes), format_bytes(static_cast<int64_t>(available)),
        format_bytes(static_cast<int64_t>(total)));
  }
  check(status, "memory");
  check(cudaMemset(data, 0, static_cast<size_t>(bytes)), "zeroing memory");
  // It runs on the default stream, which others do not wait for.
  check(cudaStreamSynchronize(cudaStreamLegacy), "zeroing memory");
  return data;
}

void CudaMemory::deallocate(void* data, int64_t) { cudaFree(data); }

int64_t CudaMemory::available_bytes() const {
  size_t available = 0, total = 0;
  check(cudaMemGetInfo(&available, &total), "asking for free memory");
  return static_cast<int64_t>(available);
}

Stream::Stream() {
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
}
Stream::~Stream() { cudaStreamDestroy(stream_); }
void Stream::synchronize() const { check(cudaStreamSynchronize(stream_), "running kernels"); }

Event::Event() { check(cudaEventCreate(&event_), "making an event"); }
Event::~Event() { cudaEventDestroy(event_); }
void Event::record(cudaStream_t stream) const {
  check(cudaEventRecord(event_, stream), "recording an event");
}
double Event::seconds_since(const Event& start) const {
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, start.event_, event_), "timing");
  return milliseconds / 1000.0;
}

Buffer::Buffer(int64_t bytes) : bytes_(bytes) { data_ = CudaMemory().allocate(bytes); }
Buffer::~Buffer() { cudaFree(data_); }

}  // namespace longgen::cuda
