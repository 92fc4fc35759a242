// bf16 products with AMX: rows of A are read where they lie, or packed; B is packed; sums of a
// block of 32 x 32 go from tiles to memory and, on the last step of k, straight on to C.
//
// A row of C depends on that row of A, on B and on k alone.
#pragma once

#include <cstdint>
#include <vector>

#include "longgen/backend/cpu/cpu_context.h"
#include "longgen/backend/cpu/gemm_tile_kernels.h"
#include "longgen/backend/cpu/scratch.h"

namespace longgen {

struct GemmArgs;

class TileGemm {
 public:
  explicit TileGemm(CpuContext context);
  // args.dtype is bf16; bias is its bias in f32, or null.
  void run(const GemmArgs& args, const float* bias);

 private:
  struct Plan;
  struct AStrip;
  struct ThreadState {
    Scratch a, sums;
  };

  void run_block(Plan& plan);
  void pack(Plan& plan);
  void pack_panel(const Plan& plan, int64_t panel);
  void multiply(const Plan& plan, int64_t item, int thread);
  void multiply_strip(const Plan& plan, const AStrip& a, int64_t strip, int64_t panel_begin,
                      int64_t panel_end, float* sums);

  CpuContext context_;
  const TileKernels& kernels_;
  Scratch a_, b_, sums_;
  std::vector<ThreadState> threads_;
};

}  // namespace longgen
