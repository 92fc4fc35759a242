#include "tests/cuda/cuda_parity.h"

#include <fmt/format.h>

#include <cstdlib>
#include <string_view>

#include "longgen/base/error.h"

namespace longgen::testing {
namespace {

bool is_asked_for(const char* variable) {
  const char* value = std::getenv(variable);
  return value != nullptr && std::string_view(value) == "1";
}

// The bytes from a tensor's first element to its last, rounded up to whole rows.
int64_t spanned_bytes(const Tensor& x) {
  if (x.numel() == 0) return 0;
  int64_t elements = x.dim(-1);
  if (x.rank() > 1) elements = x.dim(0) * x.stride(0);
  return elements * dtype_size(x.dtype());
}

}  // namespace

Backend* cuda_backend_or_null() {
  static const auto backend = []() -> std::unique_ptr<Backend> {
    try {
      return make_cuda_backend(0);
    } catch (const Error& e) {
      if (is_asked_for("LONGGEN_REQUIRE_GPU")) throw;
      fmt::print(stderr, "no cuda backend: {}\n", e.what());
      return nullptr;
    }
  }();
  return backend.get();
}

bool long_tests() { return is_asked_for("LONGGEN_LONG_TESTS"); }

DeviceMirror::DeviceMirror(Backend& backend, const Tensor& host)
    : backend_(backend), bytes_(spanned_bytes(host)) {
  data_ = backend.memory().allocate(bytes_);
  std::vector<int64_t> wide(host.shape().begin(), host.shape().end());
  if (host.rank() > 1) wide.back() = host.stride(-2);
  if (host.rank() > 2) wide[1] = host.stride(0) / host.stride(1);
  device_ = Tensor(data_, host.dtype(), std::span<const int64_t>(wide), Device::kCuda);
  for (int i = 1; i < host.rank(); ++i) device_ = device_.slice(i, 0, host.dim(i));
  host_bytes_ = Tensor(host.raw(), DType::kU8, {bytes_});
  device_bytes_ = Tensor(data_, DType::kU8, {bytes_}, Device::kCuda);
  if (bytes_ > 0) backend.copy(device_bytes_, host_bytes_);
}

DeviceMirror::~DeviceMirror() { backend_.memory().deallocate(data_, bytes_); }

void DeviceMirror::download() {
  if (bytes_ > 0) backend_.copy(host_bytes_, device_bytes_);
}

Tensor CudaParity::on_device(const Tensor& host) {
  auto& mirror = mirrors_[host.raw()];
  if (!mirror) mirror = std::make_unique<DeviceMirror>(*cuda_, host);
  return mirror->tensor();
}

void CudaParity::download() {
  for (auto& [data, mirror] : mirrors_) mirror->download();
  mirrors_.clear();
}

}  // namespace longgen::testing
