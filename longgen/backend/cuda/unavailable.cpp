// What a build without CUDA says.
#include "longgen/backend/backend.h"
#include "longgen/backend/device_list.h"
#include "longgen/base/error.h"

namespace longgen {

std::unique_ptr<Backend> make_cuda_backend(int) {
  fail(
      "this program was built without CUDA; build it where nvcc is found (see README), or use "
      "--device cpu");
}

std::string cuda_devices() { return "not looked for: this program was built without CUDA"; }

}  // namespace longgen
