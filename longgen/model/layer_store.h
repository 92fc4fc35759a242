// Tensors of one shape, one a layer: written in ascending order by the forward pass, read in
// descending order by the backward pass. Either all of them lie in device memory, or two of them do
// and the others are offloaded: copied to the host while the next layer runs, and fetched again
// while the layer after them does.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "longgen/backend/backend.h"
#include "longgen/tensor/arena.h"

namespace longgen::model {

class LayerStore {
 public:
  explicit LayerStore(Backend& backend) : backend_(&backend) {}

  // Entries [rows, columns]. `host`: where entries are offloaded to; null: nowhere.
  void allocate(Arena& device, Arena* host, const std::string& name, DType dtype, int64_t count,
                int64_t rows, int64_t columns);

  // Forward: the memory of entry i, to be written by what is queued next. When offloaded, that of
  // entry i - 2 is lost.
  Tensor write(int64_t i);
  // Forward: entry i has been written. Starts its way to the host if a later entry takes its place.
  void written(int64_t i);
  // Backward, before the work on entry i + 1 is queued and after that on i + 2: starts the way
  // back. Nothing for i < 0.
  void fetch(int64_t i);
  // The entry, which write() or fetch() of it has put there.
  Tensor read(int64_t i);

  bool offloads() const { return !host_.empty(); }

 private:
  static constexpr int64_t kSlots = 2;
  struct Slot {
    int64_t entry = -1;    // what it holds
    int64_t copy = -1;     // the last one from or to it that may still run; -1: none
    bool fetched = false;  // the copy is one to it
  };

  Slot& slot_of(int64_t i) { return slots_[static_cast<size_t>(i % kSlots)]; }
  Tensor memory_of(int64_t i) const;
  void wait(Slot& slot);

  Backend* backend_;
  int64_t count_ = 0;
  Tensor device_;             // [count or kSlots, rows, columns]
  std::vector<Tensor> host_;  // one an entry that is offloaded
  std::array<Slot, kSlots> slots_;
};

}  // namespace longgen::model
