// Products and look-ups with quantised weights.
//
// Values of an output depend on its row of x and its row of the weight alone: neither on the other
// rows of the call nor on the number of threads. But on AMX many bf16 rows (kTileRows and more)
// take another road than few: weights rounded to bf16, where few round activations to 8 bits.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "longgen/backend/backend.h"
#include "longgen/backend/cpu/cpu_context.h"
#include "longgen/backend/cpu/quantized_kernels.h"
#include "longgen/backend/cpu/scratch.h"

namespace longgen {

// The kernels for an instruction set on this processor.
const QuantizedKernels& quantized_kernels(CpuIsa isa);

class QuantizedLinear {
 public:
  // From so many rows on, widening a weight costs less than the slower products of few rows.
  static constexpr int64_t kTileRows = 32;

  explicit QuantizedLinear(CpuContext context);

  // Backend::linear_forward and embedding_forward for a quantised weight.
  void linear_forward(const Tensor& y, const Tensor& x, const WeightView& w, const Tensor& bias,
                      bool accumulate);
  void embedding_forward(const Tensor& out, const WeightView& table, const Tensor& ids,
                         bool accumulate);

 private:
  struct Product;
  struct ThreadState {
    Scratch tiles, sums;
  };

  void quantize(const Product& p);
  void run_bytes(const Product& p);
  void run_tiles(const Product& p);
  void finish(const Product& p, int64_t row, int64_t rows, int64_t column, int64_t columns,
              const float* c, int64_t ldc) const;

  CpuContext context_;
  const QuantizedKernels& kernels_;
  Scratch bias_, codes_, blocks_, tail_;
  std::vector<std::unique_ptr<ThreadState>> threads_;
};

}  // namespace longgen
