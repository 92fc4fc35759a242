#include "longgen/model/layer_store.h"

#include <algorithm>

namespace longgen::model {

void LayerStore::allocate(Arena& device, Arena* host, const std::string& name, DType dtype,
                          int64_t count, int64_t rows, int64_t columns) {
  count_ = count;
  slots_ = {};
  host_.clear();
  const bool offload = host != nullptr && count > kSlots;
  device_ = device.allocate(name, dtype, {offload ? kSlots : count, rows, columns});
  // The last two stay where they are: nothing takes their place.
  for (int64_t i = 0; offload && i + kSlots < count; ++i) {
    host_.push_back(host->allocate(name, dtype, {rows, columns}));
  }
}

Tensor LayerStore::memory_of(int64_t i) const {
  require(i >= 0 && i < count_, "entry {} of {}", i, count_);
  return device_.slice(0, offloads() ? i % kSlots : i, 1).reshape({device_.dim(1), device_.dim(2)});
}

void LayerStore::wait(Slot& slot) {
  if (slot.copy >= 0) backend_->wait_for_copy(slot.copy);
  slot.copy = -1;
}

Tensor LayerStore::write(int64_t i) {
  if (offloads()) {
    Slot& slot = slot_of(i);
    wait(slot);
    slot.entry = i;
  }
  return memory_of(i);
}

void LayerStore::written(int64_t i) {
  if (!offloads() || i + kSlots >= count_) return;
  Slot& slot = slot_of(i);
  slot.copy = backend_->copy_beside(host_[static_cast<size_t>(i)], memory_of(i));
  slot.fetched = false;
}

void LayerStore::fetch(int64_t i) {
  if (!offloads() || i < 0) return;
  Slot& slot = slot_of(i);
  if (slot.entry == i) return;
  slot.copy = backend_->copy_beside(memory_of(i), host_[static_cast<size_t>(i)]);
  slot.entry = i;
  slot.fetched = true;
}

Tensor LayerStore::read(int64_t i) {
  if (offloads()) {
    Slot& slot = slot_of(i);
    require(slot.entry == i, "entry {} is read where {} lies", i, slot.entry);
    if (slot.fetched) wait(slot);  // one to the host only reads the entry, too
  }
  return memory_of(i);
}

}  // namespace longgen::model
