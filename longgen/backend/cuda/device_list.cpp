#include "longgen/backend/device_list.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include "longgen/backend/cuda/runtime.h"
#include "longgen/base/units.h"

namespace longgen {

std::string cuda_devices() {
  std::string text;
  const int count = cuda::device_count(text);
  if (count == 0) return fmt::format("none found ({})", text);
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties{};
    cuda::check(cudaGetDeviceProperties(&properties, i), "reading the device");
    text += fmt::format("{}{}: {} (compute capability {}.{}, {}{})", i > 0 ? "; " : "", i,
                        properties.name, properties.major, properties.minor,
                        format_bytes(static_cast<int64_t>(properties.totalGlobalMem)),
                        properties.major == cuda::kHopper ? "" : "; no kernels for it");
  }
  return text;
}

}  // namespace longgen
