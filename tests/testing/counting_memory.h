// Host memory that counts what is asked of it.
#pragma once

#include "longgen/tensor/arena.h"

namespace longgen::testing {

class CountingMemory : public HostMemory {
 public:
  void* allocate(int64_t bytes) override {
    ++allocations_;
    return HostMemory::allocate(bytes);
  }
  int64_t allocations() const { return allocations_; }

 private:
  int64_t allocations_ = 0;
};

}  // namespace longgen::testing
