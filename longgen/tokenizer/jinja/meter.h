// What one rendering may use. A template comes from a stranger's file: it must neither hang nor
// exhaust memory.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

#include "longgen/base/error.h"

namespace longgen::tokenizer::jinja {

struct Limits {
  int64_t steps = 20'000'000;          // nodes evaluated; 64 bytes or 4 items moved are one too
  int64_t bytes = int64_t{128} << 20;  // held at once by the values that the template makes
  int depth = 400;                     // nodes within nodes while running, macro calls included
};

// A failure whose place the interpreter adds.
class Failure : public Error {
 public:
  using Error::Error;
};

template <typename... Args>
[[noreturn]] void fail_here(fmt::format_string<Args...> format, Args&&... args) {
  throw Failure(fmt::format(format, std::forward<Args>(args)...));
}

class Meter {
 public:
  explicit Meter(const Limits& limits) : limits_(limits) {}
  Meter(const Meter&) = delete;
  Meter& operator=(const Meter&) = delete;

  void step(int64_t count = 1) {
    steps_ += count;
    if (steps_ > limits_.steps) {
      fail_here("the template does not come to an end (more than {} steps)", limits_.steps);
    }
  }
  // Work over `bytes` of text, or over `items` of a list.
  void step_bytes(size_t bytes) { step(1 + static_cast<int64_t>(bytes / 64)); }
  void step_items(size_t items) { step(1 + static_cast<int64_t>(items / 4)); }

  void take(size_t bytes) {
    // Against what is left, so that no sum can wrap.
    if (bytes > static_cast<size_t>(limits_.bytes - bytes_)) {
      fail_here("the template makes more than {} bytes of text and lists", limits_.bytes);
    }
    bytes_ += static_cast<int64_t>(bytes);
    step_bytes(bytes);
  }
  void give(size_t bytes) { bytes_ -= static_cast<int64_t>(bytes); }

  const Limits& limits() const { return limits_; }

 private:
  Limits limits_;
  int64_t steps_ = 0, bytes_ = 0;
};

// Bytes that an object holds, given back when it goes. The meter outlives it.
class Charge {
 public:
  Charge() = default;
  explicit Charge(Meter& meter) : meter_(&meter) {}
  ~Charge() { release(); }
  Charge(Charge&& other) noexcept
      : meter_(std::exchange(other.meter_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Charge& operator=(Charge&& other) noexcept {
    if (this != &other) {
      release();
      meter_ = std::exchange(other.meter_, nullptr);
      bytes_ = std::exchange(other.bytes_, 0);
    }
    return *this;
  }
  void add(size_t bytes) {
    if (meter_ == nullptr) return;
    meter_->take(bytes);
    bytes_ += bytes;
  }

 private:
  void release() {
    if (meter_ != nullptr) meter_->give(bytes_);
  }

  Meter* meter_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace longgen::tokenizer::jinja
