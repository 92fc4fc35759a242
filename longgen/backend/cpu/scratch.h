// Memory that an operation needs for the length of a call; kept and grown from call to call.
#pragma once

#include <cstdint>

#include "longgen/tensor/arena.h"

namespace longgen {

class Scratch {
 public:
  Scratch() = default;
  ~Scratch() { release(); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // At least `bytes`, 4096-byte aligned; contents are undefined. Invalidates what it gave before.
  void* get(int64_t bytes) {
    if (bytes > capacity_) {
      release();
      data_ = memory_.allocate(bytes);
      capacity_ = bytes;
    }
    return data_;
  }
  template <typename T>
  T* get_array(int64_t count) {
    return static_cast<T*>(get(count * static_cast<int64_t>(sizeof(T))));
  }

 private:
  void release() {
    if (data_) memory_.deallocate(data_, capacity_);
    data_ = nullptr;
    capacity_ = 0;
  }

  HostMemory memory_;
  void* data_ = nullptr;
  int64_t capacity_ = 0;
};

}  // namespace longgen
