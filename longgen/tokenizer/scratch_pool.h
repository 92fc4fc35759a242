// Scratch objects that const functions borrow, so that a tokenizer serves several threads at once.
#pragma once

#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace longgen::tokenizer {

template <typename T>
class ScratchPool {
 public:
  // Calls use(scratch) with an object that nobody else holds meanwhile, made by make() when all are
  // taken. An object whose use threw is not given out again.
  template <typename Make, typename Use>
  void with(Make&& make, Use&& use) {
    std::unique_ptr<T> scratch = take();
    if (scratch == nullptr) scratch = make();
    use(*scratch);
    const std::lock_guard lock(mutex_);
    free_.push_back(std::move(scratch));
  }

 private:
  std::unique_ptr<T> take() {
    const std::lock_guard lock(mutex_);
    if (free_.empty()) return nullptr;
    std::unique_ptr<T> scratch = std::move(free_.back());
    free_.pop_back();
    return scratch;
  }

  std::mutex mutex_;
  std::vector<std::unique_ptr<T>> free_;
};

}  // namespace longgen::tokenizer
