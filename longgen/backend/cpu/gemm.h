// Matrix products of the cpu backend: one driver for all instruction sets.
//
// Values of a row of C depend on that row of A, on B and on k alone: neither on the other rows of
// the call nor on the number of threads (but few rows, up to kFewRows, take another road than
// many).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "longgen/backend/cpu/cpu_context.h"
#include "longgen/backend/cpu/gemm_kernels.h"
#include "longgen/backend/cpu/gemm_tiles.h"
#include "longgen/backend/cpu/scratch.h"
#include "longgen/tensor/dtype.h"

namespace longgen {

// C [m, n] = A [m, k] B [k, n] (+ bias [n]) (+ base [m, n], like C and perhaps C itself).
struct GemmArgs {
  DType dtype = DType::kF32;    // of A, B and bias: f32 or bf16
  int64_t m = 0, n = 0, k = 0;  // k > 0
  PackSource a;                 // vectors are rows of A
  PackSource b;                 // vectors are columns of B
  void* c = nullptr;
  DType c_dtype = DType::kF32;  // f32 or bf16
  int64_t c_stride = 0;
  const void* bias = nullptr;  // contiguous; may be null
  const void* base = nullptr;  // may be null
  int64_t base_stride = 0;
};

class Gemm {
 public:
  // Up to so many rows, B is read in place instead of being packed (when its k are contiguous).
  static constexpr int64_t kFewRows = 8;

  explicit Gemm(CpuContext context);
  void run(const GemmArgs& args);

 private:
  struct Plan;
  struct ThreadState {
    Scratch b, c;
    int64_t packed_block = -1;  // the column block that `b` holds
  };

  void run_few(const GemmArgs& args, const float* bias);
  void run_packed(const GemmArgs& args, const float* bias);
  void pack_a(Plan& plan);
  void run_block(const Plan& plan, int64_t item, int thread);
  void multiply_block(const Plan& plan, int64_t row_panel, int64_t row_panels,
                      int64_t column_panels, const void* b, float* c, int64_t ldc);
  void finish_rows(const Plan& plan, int64_t row, int64_t rows, int64_t column, int64_t columns,
                   const float* c, int64_t ldc);

  CpuContext context_;
  const GemmKernels& f32_;
  const GemmKernels& bf16_;
  Scratch bias_, a_, sums_;
  std::vector<std::unique_ptr<ThreadState>> threads_;
  std::unique_ptr<TileGemm> tiles_;  // where the instruction set has them
};

}  // namespace longgen
