#include "longgen/backend/cuda/steps.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "longgen/base/checked.h"
#include "longgen/base/error.h"
#include "longgen/base/units.h"

namespace longgen::cuda {
namespace {

constexpr int64_t kRoom = int64_t{16} << 20;
constexpr size_t kMostGraphs = 64;

}  // namespace

Steps::Steps(cudaStream_t stream) : stream_(stream), device_(kRoom) {
  for (int i = 0; i < 2; ++i) {
    void* host = nullptr;
    check(cudaMallocHost(&host, static_cast<size_t>(kRoom)), "pinned memory");
    host_[i] = static_cast<std::byte*>(host);
    check(cudaEventCreateWithFlags(&copied_[i], cudaEventDisableTiming), "making an event");
  }
}

Steps::~Steps() {
  for (const auto& [key, graph] : graphs_) {
    if (graph.exec != nullptr) cudaGraphExecDestroy(graph.exec);
  }
  for (int i = 0; i < 2; ++i) {
    cudaEventDestroy(copied_[i]);
    cudaFreeHost(host_[i]);
  }
}

void Steps::add(double value) { add(std::bit_cast<uint64_t>(value)); }

void Steps::add(std::string_view text) {
  for (const char c : text) add(static_cast<uint64_t>(static_cast<unsigned char>(c)));
  add(text.size());
}

void Steps::add(const Tensor& x) {
  add(x.rank());
  if (!x.defined()) return;
  add(static_cast<const void*>(x.raw()));
  add(x.dtype());
  for (int i = 0; i < x.rank(); ++i) {
    add(x.dim(i));
    add(x.stride(i));
  }
}

void* Steps::put(const void* data, int64_t bytes, int64_t capacity) {
  if (mode_ == Mode::kCollect) {
    capacity = round_up<int64_t>(std::max(bytes, capacity), 256);
    require(used_ + capacity <= kRoom,
            "cuda: a step describes its sequences with more than {}; run fewer sequences at once",
            format_bytes(kRoom));
    std::memcpy(host_[half_] + used_, data, static_cast<size_t>(bytes));
    placed_.push_back({used_, capacity});
    used_ += capacity;
    add(capacity);
    return device_.get<std::byte>() + placed_.back().offset;
  }
  require(next_ < placed_.size() && bytes <= placed_[next_].capacity,
          "cuda: a step made other calls the second time");
  return device_.get<std::byte>() + placed_[next_++].offset;
}

void* Steps::put_once(const void* data, int64_t bytes, int64_t capacity) {
  const auto [at, added] = once_.try_emplace(data, nullptr);
  if (added) at->second = put(data, bytes, capacity);
  return at->second;
}

void Steps::run(bool repeats, const std::function<void()>& work) {
  require(!active(), "cuda: a step within a step");
  ++steps_;
  try {
    collect(work);
    upload();
    start_.record(stream_);
    if (!repeats) {
      launch(work);
    } else {
      Graph& graph = graphs_[key_];
      const bool seen = graph.last_use > 0;
      graph.last_use = steps_;
      // The first one of its kind also makes what a capture may not: plans, loaded kernels.
      if (!seen) {
        launch(work);
        forget_oldest();
      } else {
        if (graph.exec == nullptr) graph.exec = capture(work);
        check(cudaGraphLaunch(graph.exec, stream_), "starting a graph");
        ++graph_steps_;
      }
    }
    end_.record(stream_);
    mode_ = Mode::kNone;
  } catch (...) {
    mode_ = Mode::kNone;
    throw;
  }
}

void Steps::collect(const std::function<void()>& work) {
  half_ ^= 1;
  check(cudaEventSynchronize(copied_[half_]), "running kernels");
  key_ = {1, 2};
  placed_.clear();
  once_.clear();
  used_ = 0;
  mode_ = Mode::kCollect;
  work();
}

void Steps::upload() {
  if (used_ == 0) return;
  check(cudaMemcpyAsync(device_.get(), host_[half_], static_cast<size_t>(used_),
                        cudaMemcpyHostToDevice, stream_),
        "uploading");
  check(cudaEventRecord(copied_[half_], stream_), "recording an event");
}

void Steps::launch(const std::function<void()>& work) {
  next_ = 0;
  once_.clear();
  mode_ = Mode::kRun;
  work();
  require(next_ == placed_.size(), "cuda: a step made fewer calls the second time");
}

cudaGraphExec_t Steps::capture(const std::function<void()>& work) {
  check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "capturing a step");
  cudaGraph_t graph = nullptr;
  try {
    launch(work);
  } catch (...) {
    cudaStreamEndCapture(stream_, &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    cudaGetLastError();
    throw;
  }
  check(cudaStreamEndCapture(stream_, &graph), "capturing a step");
  cudaGraphExec_t exec = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&exec, graph, 0);
  cudaGraphDestroy(graph);
  check(status, "making a graph of a step");
  return exec;
}

void Steps::forget_oldest() {
  if (graphs_.size() <= kMostGraphs) return;
  const auto oldest = std::min_element(
      graphs_.begin(), graphs_.end(),
      [](const auto& a, const auto& b) { return a.second.last_use < b.second.last_use; });
  if (oldest->second.exec != nullptr) {
    check(cudaStreamSynchronize(stream_), "running kernels");
    cudaGraphExecDestroy(oldest->second.exec);
  }
  graphs_.erase(oldest);
}

}  // namespace longgen::cuda
