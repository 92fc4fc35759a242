// Runs one operation on the reference (f64) and on the GPU with the same inputs, and compares.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "tests/backend/parity.h"

namespace longgen::testing {

// The GPU's backend, made once. Null (and the test skipped, aloud) where there is no GPU; with
// LONGGEN_REQUIRE_GPU=1 that is a failure.
Backend* cuda_backend_or_null();
// Whether tests that take longer than a few seconds were asked for (LONGGEN_LONG_TESTS=1).
bool long_tests();

// Device copy of a host tensor's memory, gaps included.
class DeviceMirror {
 public:
  DeviceMirror(Backend& backend, const Tensor& host);
  ~DeviceMirror();
  DeviceMirror(const DeviceMirror&) = delete;
  DeviceMirror& operator=(const DeviceMirror&) = delete;

  const Tensor& tensor() const { return device_; }
  void download();  // back into the host's memory

 private:
  Backend& backend_;
  void* data_ = nullptr;
  int64_t bytes_ = 0;
  Tensor device_, host_bytes_, device_bytes_;
};

class CudaParity : public CpuParity {
 protected:
  void SetUp() override {
    cuda_ = cuda_backend_or_null();
    if (cuda_ == nullptr) GTEST_SKIP() << "no GPU";
  }
  Backend& cuda() { return *cuda_; }

  // As CpuParity::run; the device's results replace the tested copies.
  template <typename Op>
  void run(const Op& op) {
    op(reference(), [](Operand& x) { return x.reference(); });
    op(cuda(), [this](Operand& x) { return on_device(x.tested()); });
    download();
  }
  // Integer tensors are the same for both; on the device for the GPU.
  Tensor ids_for(Backend& backend, const Tensor& ids) {
    return &backend == cuda_ ? on_device(ids) : ids;
  }
  Tensor on_device(const Tensor& host);
  void download();

 private:
  Backend* cuda_ = nullptr;
  std::map<void*, std::unique_ptr<DeviceMirror>> mirrors_;
};

inline auto cuda_cases() {
  return ::testing::Combine(::testing::Values(CpuIsa::kPortable),
                            ::testing::Values(DType::kF32, DType::kBF16));
}
inline std::string cuda_case_name(const ::testing::TestParamInfo<CpuCase>& info) {
  return std::string(dtype_name(std::get<1>(info.param)));
}

}  // namespace longgen::testing
