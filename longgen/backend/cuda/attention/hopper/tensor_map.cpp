#include "longgen/backend/cuda/attention/hopper/tensor_map.h"

#include <cuda_runtime_api.h>
#include <fmt/ranges.h>

#include <array>

#include "longgen/backend/cuda/runtime.h"
#include "longgen/base/error.h"

namespace longgen::cuda::hopper {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

// Through the runtime, so that programs start where there is no libcuda.
Encode find_encode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                         cudaEnableDefault, &found),
        "finding cuTensorMapEncodeTiled");
  require(found == cudaDriverEntryPointSuccess && function != nullptr,
          "the NVIDIA driver has no cuTensorMapEncodeTiled; CUDA 13's driver is needed");
  return reinterpret_cast<Encode>(function);
}

}  // namespace

CUtensorMap make_tensor_map(const BoxedTensor& t) {
  static const Encode encode = find_encode();
  constexpr size_t kMost = 5;
  const size_t rank = t.sizes.size();
  require(rank >= 1 && rank <= kMost && t.strides.size() + 1 == rank && t.box.size() == rank,
          "tensor map: {} sizes, {} strides, {} box sizes", rank, t.strides.size(), t.box.size());
  std::array<cuuint64_t, kMost> sizes{}, strides{};
  std::array<cuuint32_t, kMost> box{}, steps{};
  for (size_t i = 0; i < rank; ++i) {
    sizes[i] = static_cast<cuuint64_t>(t.sizes[i]);
    box[i] = static_cast<cuuint32_t>(t.box[i]);
    steps[i] = 1;
    if (i > 0) strides[i - 1] = static_cast<cuuint64_t>(t.strides[i - 1]) * 2;
  }
  CUtensorMap map;
  const CUresult status =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, static_cast<cuuint32_t>(rank),
             const_cast<void*>(t.data), sizes.data(), strides.data(), box.data(), steps.data(),
             CU_TENSOR_MAP_INTERLEAVE_NONE,
             t.swizzled ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  require(status == CUDA_SUCCESS,
          "tensor map: error {} for sizes {}, strides {} (elements), box {}, address {}",
          static_cast<int>(status), t.sizes, t.strides, t.box, t.data);
  return map;
}

}  // namespace longgen::cuda::hopper
