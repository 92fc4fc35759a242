// A fixed set of threads. How work is cut depends only on its size and the number of threads, so
// that results that are summed a part a thread stay the same from run to run.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace longgen {

class ThreadPool {
 public:
  // `threads` >= 1; the calling thread is thread 0. Threads are pinned to nothing.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;

  // body(begin, end, thread): [0, count) cut into size() even consecutive parts (empty parts are
  // skipped). Returns when all are done; the first exception is rethrown. Not reentrant.
  void for_ranges(int64_t count, const std::function<void(int64_t, int64_t, int)>& body);

  // body(index, thread) for every index, handed out one by one. Use it when the result of an index
  // does not depend on the thread that ran it.
  void for_each(int64_t count, const std::function<void(int64_t, int)>& body);

  // The processors this process may use.
  static int hardware_threads();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace longgen
