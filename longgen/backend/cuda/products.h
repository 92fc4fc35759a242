// Matrix products through cuBLASLt, which is loaded when the first backend is made: programs that
// run without a GPU never touch it.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>

#include "longgen/backend/cuda/product_args.h"
#include "longgen/backend/cuda/runtime.h"

namespace longgen::cuda {

class Products {
 public:
  // Throws Error when the library is missing, naming it.
  explicit Products(cudaStream_t stream);
  ~Products();
  void run(const ProductArgs& args);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace longgen::cuda
