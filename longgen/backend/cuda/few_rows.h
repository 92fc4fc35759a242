// Products of a few rows, as decode steps form them: bound by reading the weights once.
#pragma once

#include <cuda_runtime_api.h>

#include "longgen/backend/cuda/product_args.h"

namespace longgen::cuda {

inline constexpr int64_t kMostFewRows = 8;

// C [m, n] = A [m, k] B [n, k]^T (+ bias) (+ C) with m up to kMostFewRows, bf16 (C may be f32), k a
// multiple of 8 and rows at multiples of 16 bytes. A row's result does not depend on the others.
bool takes_few_rows(const ProductArgs& args);
void product_few_rows(const ProductArgs& args, int processors, cudaStream_t stream);

}  // namespace longgen::cuda
