// Host memory that is full of NaN: what is read before it is written shows up in the result.
#pragma once

#include <cstring>

#include "longgen/tensor/arena.h"

namespace longgen::testing {

class PoisonedMemory : public HostMemory {
 public:
  void* allocate(int64_t bytes) override {
    void* data = HostMemory::allocate(bytes);
    // All ones is NaN in f64, f32 and bf16, and -1 in i32.
    if (data != nullptr) std::memset(data, 0xff, static_cast<size_t>(bytes));
    return data;
  }
};

}  // namespace longgen::testing
