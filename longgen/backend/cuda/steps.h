// Steps of the cuda backend (see DeviceQueue::step): a step's calls are made twice. The first time
// they only check their arguments, leave what the device must know beforehand, and are noted: two
// steps with equal notes make equal launches. Then that data travels in one copy, and the calls are
// made again, now launching, or a graph of them is started that an equal step left.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <string_view>
#include <type_traits>
#include <vector>

#include "longgen/backend/cuda/runtime.h"
#include "longgen/tensor/tensor.h"

namespace longgen::cuda {

class Steps {
 public:
  explicit Steps(cudaStream_t stream);
  ~Steps();
  Steps(const Steps&) = delete;
  Steps& operator=(const Steps&) = delete;

  void run(bool repeats, const std::function<void()>& work);
  // Of the last step's launches, which have run.
  double seconds() const { return end_.seconds_since(start_); }

  bool active() const { return mode_ != Mode::kNone; }
  bool collecting() const { return mode_ == Mode::kCollect; }
  int64_t graph_steps() const { return graph_steps_; }

  // The device address at which a copy of the data will lie when the step's launches run. Room for
  // `capacity` bytes is kept: a later step with less or more data below it is noted the same.
  void* put(const void* data, int64_t bytes, int64_t capacity);
  // As put, once for each address in a step: for data that stays while the step's calls are made.
  void* put_once(const void* data, int64_t bytes, int64_t capacity);

  // While collecting: everything that the call's launches depend on, but data that is put.
  template <typename... Values>
  void note(const Values&... values) {
    (add(values), ...);
  }

 private:
  enum class Mode : uint8_t { kNone, kCollect, kRun };
  using Key = std::array<uint64_t, 2>;
  struct Placed {
    int64_t offset, capacity;
  };
  struct Graph {
    cudaGraphExec_t exec = nullptr;  // null: seen once
    int64_t last_use = 0;
  };

  void add(uint64_t word) {
    for (size_t lane = 0; lane < key_.size(); ++lane) {
      key_[lane] = (key_[lane] ^ word) * (lane == 0 ? 0x9E3779B97F4A7C15u : 0xC2B2AE3D27D4EB4Fu);
      key_[lane] ^= key_[lane] >> 29;
    }
  }
  template <typename T>
  requires(std::is_integral_v<T> || std::is_enum_v<T>) void add(T value) {
    add(static_cast<uint64_t>(value));
  }
  void add(double value);
  void add(const void* address) { add(reinterpret_cast<uintptr_t>(address)); }
  void add(std::string_view text);
  void add(const Tensor& x);

  void collect(const std::function<void()>& work);
  void upload();
  void launch(const std::function<void()>& work);
  cudaGraphExec_t capture(const std::function<void()>& work);
  void forget_oldest();

  cudaStream_t stream_;
  Buffer device_;
  std::byte* host_[2] = {};     // pinned, in turn
  cudaEvent_t copied_[2] = {};  // recorded when the copy from it has been queued
  Event start_, end_;           // around a step's launches
  int half_ = 0;
  Mode mode_ = Mode::kNone;
  Key key_{};
  std::vector<Placed> placed_;  // of this step, in the order of the calls
  size_t next_ = 0;             // in placed_, while the calls are made again
  int64_t used_ = 0;
  std::map<const void*, void*> once_;
  std::map<Key, Graph> graphs_;
  int64_t steps_ = 0, graph_steps_ = 0;
};

}  // namespace longgen::cuda
