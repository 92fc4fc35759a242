#include "tests/cuda/device_values.h"

#include <cuda_bf16.h>

#include <stdexcept>
#include <string>

namespace longgen::testing {
namespace {

constexpr int kThreads = 256, kBlocks = 132 * 8;

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

void wait(const char* what) {
  check(cudaGetLastError(), what);
  check(cudaDeviceSynchronize(), what);
}

// The sum of four 16-bit numbers, its mean taken off; SplitMix64 mixes stream and index. Exact in
// f32 but for one product, so host and device agree.
__host__ __device__ float unrounded(uint64_t stream, int64_t index) {
  uint64_t x = stream * 0xd1342543de82ef95u + static_cast<uint64_t>(index) * 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  x ^= x >> 31;
  const auto sum =
      static_cast<int>((x & 0xffff) + (x >> 16 & 0xffff) + (x >> 32 & 0xffff) + (x >> 48));
  constexpr float kDeviation = 37837.2f;  // sqrt(4 (2^32 - 1) / 12)
  return static_cast<float>(sum - 131070) * (1 / kDeviation);
}

__global__ void fill(uint64_t stream, int64_t count, __nv_bfloat16* out) {
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < count;
       i += int64_t{kThreads} * gridDim.x) {
    out[i] = __float2bfloat16_rn(unrounded(stream, i));
  }
}

__global__ void compare(const uint32_t* a, const uint32_t* b, int64_t words,
                        unsigned long long* count) {
  unsigned long long different = 0;
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < words;
       i += int64_t{kThreads} * gridDim.x) {
    different += a[i] != b[i];
  }
  if (different > 0) atomicAdd(count, different);
}

}  // namespace

void host_values(uint64_t stream, int64_t first, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) {
    const float x = unrounded(stream, first + i);
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;  // to the nearest bf16, ties to even
    memcpy(out + i, &bits, sizeof bits);
  }
}

void device_values(uint64_t stream, int64_t count, void* out) {
  wait("before device_values");
  fill<<<kBlocks, kThreads>>>(stream, count, static_cast<__nv_bfloat16*>(out));
  wait("device_values");
}

void poison_device(void* data, int64_t bytes) {
  wait("before poison_device");
  check(cudaMemset(data, 0xff, static_cast<size_t>(bytes)), "poison_device");
  wait("poison_device");
}

int64_t differing_words(const void* a, const void* b, int64_t bytes) {
  wait("before differing_words");
  unsigned long long *count = nullptr, found = 0;
  check(cudaMalloc(&count, sizeof found), "differing_words");
  check(cudaMemset(count, 0, sizeof found), "differing_words");
  compare<<<kBlocks, kThreads>>>(static_cast<const uint32_t*>(a), static_cast<const uint32_t*>(b),
                                 bytes / 4, count);
  wait("differing_words");
  check(cudaMemcpy(&found, count, sizeof found, cudaMemcpyDeviceToHost), "differing_words");
  check(cudaFree(count), "differing_words");
  return static_cast<int64_t>(found);
}

}  // namespace longgen::testing
