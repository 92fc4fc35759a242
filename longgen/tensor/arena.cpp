#include "longgen/tensor/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "longgen/base/checked.h"
#include "longgen/base/system.h"
#include "longgen/base/units.h"

namespace longgen {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kLargePage = int64_t{2} << 20;

}  // namespace

int64_t MemoryResource::available_bytes() const { return available_memory_bytes(); }

void* HostMemory::allocate(int64_t bytes) {
  if (bytes == 0) return nullptr;
  // A mapping that starts on a large page, so that the system can use large pages throughout.
  const int64_t padded = checked_add(bytes, kLargePage);
  void* raw = mmap(nullptr, static_cast<size_t>(padded), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw == MAP_FAILED) {
    fail("cannot reserve {} of memory: {}", format_bytes(bytes), std::strerror(errno));
  }
  auto* begin = static_cast<std::byte*>(raw);
  const auto address = reinterpret_cast<uintptr_t>(begin);
  std::byte* aligned =
      begin + (kLargePage - static_cast<int64_t>(address % kLargePage)) % kLargePage;
  const int64_t mapped = round_up<int64_t>(bytes, 4096);
  if (aligned != begin) munmap(begin, static_cast<size_t>(aligned - begin));
  const int64_t tail = begin + padded - (aligned + mapped);
  if (tail > 0) munmap(aligned + mapped, static_cast<size_t>(tail));
  if (bytes >= kLargePage) madvise(aligned, static_cast<size_t>(mapped), MADV_HUGEPAGE);
  return aligned;
}

void HostMemory::deallocate(void* data, int64_t bytes) {
  if (data != nullptr) munmap(data, static_cast<size_t>(round_up<int64_t>(bytes, 4096)));
}

Arena::Arena(std::string name, MemoryResource& memory, int64_t capacity_bytes)
    : name_(std::move(name)), memory_(memory), capacity_(capacity_bytes) {
  base_ = static_cast<std::byte*>(memory_.allocate(capacity_));
}

Arena::~Arena() { memory_.deallocate(base_, capacity_); }

Tensor Arena::allocate(std::string_view name, DType dtype, std::span<const int64_t> shape) {
  const Tensor measured(nullptr, dtype, shape, memory_.device());
  const int64_t bytes = round_up(checked_mul(measured.numel(), dtype_size(dtype)), kAlignment);
  if (bytes > capacity_ - used_) {
    fail("{}: {} needs {}, but {} of {} are in use", name_, name, format_bytes(bytes),
         format_bytes(used_), format_bytes(capacity_));
  }
  entries_.push_back({std::string(name), used_, bytes});
  const int64_t offset = used_;
  used_ += bytes;
  grown_ = grown_ || used_ > high_water_;
  high_water_ = std::max(high_water_, used_);
  return Tensor(base_ == nullptr ? nullptr : base_ + offset, dtype, shape, memory_.device());
}

void Arena::rewind(int64_t mark) {
  require(mark >= 0 && mark <= used_, "{}: rewind to {} of {}", name_, mark, used_);
  if (grown_) high_water_entries_ = entries_;
  grown_ = false;
  while (!entries_.empty() && entries_.back().offset >= mark) entries_.pop_back();
  used_ = mark;
}

std::string Arena::report() const {
  auto entries = high_water_entries();
  std::stable_sort(entries.begin(), entries.end(),
                   [](const Entry& a, const Entry& b) { return a.bytes > b.bytes; });
  std::string text;
  for (const Entry& entry : entries) {
    text += fmt::format("  {:<32} {:>12}\n", entry.name, format_bytes(entry.bytes));
  }
  return text + fmt::format("  {:<32} {:>12}\n", name_ + " in all", format_bytes(high_water_));
}

}  // namespace longgen
