// What the machine could do at most, measured in the same run as what it is held against:
// arithmetic in registers by instruction set, and reading memory in large pages, with all threads
// at once.
#pragma once

#include <string>
#include <vector>

#include "longgen/backend/backend.h"
#include "longgen/base/thread_pool.h"

namespace longgen::bench {

struct ArithmeticPeak {
  std::string name;     // "avx512 fma"
  std::string numbers;  // "f32", "bf16", "int8": what is multiplied
  double flops = 0;     // a second, multiplications and additions, all threads together
};

struct Peaks {
  std::vector<ArithmeticPeak> arithmetic;  // of the set in use and those below it
  double read_bytes = 0;                   // a second, all threads together; 0: not measured

  // The best rate at which products of this dtype can be formed: bf16 may also be widened to f32.
  // 0 when nothing was measured.
  double flops(DType dtype) const;
  double int8_flops() const;  // 0 where there is no such instruction
};

// About a second. `isa`: what the backend uses (not kAuto).
Peaks measure_peaks(ThreadPool& pool, CpuIsa isa);

}  // namespace longgen::bench
