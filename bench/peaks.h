// What the machine could do at most, measured in the same run as what it is held against:
// arithmetic in registers by instruction set, and reading memory in large pages, with all threads
// at once; on a device, large products and copies.
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
  std::string read_name = "memory read";

  // The best rate at which products of this dtype can be formed: bf16 may also be widened to f32.
  // 0 when nothing was measured.
  double flops(DType dtype) const;
};

// Of a device: products of 8192 x 8192 x 8192 (f32: 4096), and copying 2 GB, read and written.
// They take a tenth of a second: of a GPU that was idle, at clocks that it cannot hold.
Peaks measure_device_peaks(Backend& backend);
// The same bf16 products over two seconds, of which the second one counts: what is left of them at
// the clocks that the GPU's power allows.
ArithmeticPeak measure_sustained_product(Backend& backend);
// About a second. `isa`: what the backend uses (not kAuto).
Peaks measure_peaks(ThreadPool& pool, CpuIsa isa);

}  // namespace longgen::bench
