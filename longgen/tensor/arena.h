// Memory by name. An arena reserves its capacity once; allocations are bumped from it, 64-byte
// aligned, and may be given back in stack order. It keeps the high-water mark and a report by name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "longgen/tensor/tensor.h"

namespace longgen {

// Where an arena's memory comes from.
class MemoryResource {
 public:
  virtual ~MemoryResource() = default;
  virtual Device device() const = 0;
  // 4096-byte aligned, zero-filled on first touch. Throws Error with the size asked for.
  virtual void* allocate(int64_t bytes) = 0;
  virtual void deallocate(void* data, int64_t bytes) = 0;
  // What allocate() could give now; the host's free memory unless the resource knows better.
  virtual int64_t available_bytes() const;
};

// Anonymous mappings, large pages advised. Untouched pages cost nothing, so a generous capacity is
// free; only what is used becomes resident.
class HostMemory : public MemoryResource {
 public:
  Device device() const override { return Device::kHost; }
  void* allocate(int64_t bytes) override;
  void deallocate(void* data, int64_t bytes) override;
};

// Gives null pointers: an arena over it only measures.
class NoMemory : public MemoryResource {
 public:
  Device device() const override { return Device::kHost; }
  void* allocate(int64_t) override { return nullptr; }
  void deallocate(void*, int64_t) override {}
};

class Arena {
 public:
  // `name` appears in errors and reports.
  Arena(std::string name, MemoryResource& memory, int64_t capacity_bytes);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // Contiguous, 64-byte aligned. Throws Error with the numbers when the capacity is exceeded.
  Tensor allocate(std::string_view name, DType dtype, std::span<const int64_t> shape);
  Tensor allocate(std::string_view name, DType dtype, std::initializer_list<int64_t> shape) {
    return allocate(name, dtype, std::span<const int64_t>(shape.begin(), shape.size()));
  }

  // Everything allocated after mark() is given back by rewind(mark).
  int64_t mark() const { return used_; }
  void rewind(int64_t mark);

  int64_t used_bytes() const { return used_; }
  int64_t high_water_bytes() const { return high_water_; }
  int64_t capacity_bytes() const { return capacity_; }

  struct Entry {
    std::string name;
    int64_t offset, bytes;
  };
  // What was live at the high-water mark, in order of allocation.
  const std::vector<Entry>& high_water_entries() const {
    return grown_ ? entries_ : high_water_entries_;
  }
  // A table: name, bytes; the largest first, then the total.
  std::string report() const;

 private:
  std::string name_;
  MemoryResource& memory_;
  std::byte* base_ = nullptr;
  int64_t capacity_, used_ = 0, high_water_ = 0;
  // Copied when the mark is left, not at every step up to it: a model has thousands of tensors.
  std::vector<Entry> entries_, high_water_entries_;
  bool grown_ = false;  // entries_ are those of the high-water mark
};

// Scoped mark/rewind.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(arena), mark_(arena.mark()) {}
  ~ArenaScope() { arena_.rewind(mark_); }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  int64_t mark_;
};

}  // namespace longgen
