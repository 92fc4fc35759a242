#include "longgen/base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "longgen/base/error.h"

namespace longgen {
namespace {

// How long an idle thread watches for the next job before it sleeps. Layers follow each other
// within microseconds, and waking a sleeper costs tens of them.
constexpr auto kSpin = std::chrono::microseconds(200);

// One turn of a waiting loop. Now and then the processor is offered to others: on a busy machine
// the thread that is waited for may need it.
void relax(int turn) {
  if (turn % 32 == 31) {
    std::this_thread::yield();
  } else {
    __builtin_ia32_pause();
  }
}

}  // namespace

struct ThreadPool::Impl {
  explicit Impl(int count) {
    try {
      for (int i = 1; i < count; ++i) workers.emplace_back([this, i] { serve(i); });
    } catch (const std::system_error& e) {
      stop();
      fail("cannot start {} threads: {}; ask for fewer", count, e.what());
    }
  }

  ~Impl() { stop(); }

  void stop() {
    {
      const std::lock_guard lock(mutex);
      stopping = true;
      generation.fetch_add(1, std::memory_order_release);
    }
    wake.notify_all();
    for (auto& worker : workers) worker.join();
  }

  void serve(int thread) {
    uint64_t seen = 0;
    while (true) {
      wait_for_job(seen);
      seen = generation.load(std::memory_order_acquire);
      if (stopping) return;
      run_part(thread);
      if (pending.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        const std::lock_guard lock(mutex);
        done.notify_one();
      }
    }
  }

  void wait_for_job(uint64_t seen) {
    const auto deadline = std::chrono::steady_clock::now() + kSpin;
    while (std::chrono::steady_clock::now() < deadline) {
      for (int i = 0; i < 64; ++i) {
        if (generation.load(std::memory_order_acquire) != seen) return;
        relax(i);
      }
    }
    std::unique_lock lock(mutex);
    wake.wait(lock, [&] { return generation.load(std::memory_order_acquire) != seen; });
  }

  void run_part(int thread) {
    try {
      (*job)(thread);
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!error) error = std::current_exception();
    }
  }

  // job(thread) on every thread; returns when all are done.
  void run(const std::function<void(int)>& body) {
    job = &body;
    error = nullptr;
    pending.store(static_cast<int>(workers.size()), std::memory_order_relaxed);
    {
      const std::lock_guard lock(mutex);
      generation.fetch_add(1, std::memory_order_release);
    }
    wake.notify_all();
    run_part(0);
    const auto deadline = std::chrono::steady_clock::now() + kSpin;
    for (int turn = 0; pending.load(std::memory_order_acquire) != 0 &&
                       std::chrono::steady_clock::now() < deadline;
         ++turn) {
      relax(turn);
    }
    if (pending.load(std::memory_order_acquire) != 0) {
      std::unique_lock lock(mutex);
      done.wait(lock, [&] { return pending.load(std::memory_order_acquire) == 0; });
    }
    if (error) std::rethrow_exception(error);
  }

  std::vector<std::thread> workers;
  std::mutex mutex;
  std::condition_variable wake, done;
  std::atomic<uint64_t> generation{0};
  std::atomic<int> pending{0};
  bool stopping = false;
  const std::function<void(int)>* job = nullptr;
  std::exception_ptr error;
};

ThreadPool::ThreadPool(int threads) {
  require(threads >= 1 && threads <= 4096, "{} threads; use 1 to 4096", threads);
  impl_ = std::make_unique<Impl>(threads);
}

ThreadPool::~ThreadPool() = default;

int ThreadPool::size() const { return static_cast<int>(impl_->workers.size()) + 1; }

void ThreadPool::for_ranges(int64_t count, const std::function<void(int64_t, int64_t, int)>& body) {
  const int64_t parts = size();
  const auto part = [&](int thread) {
    const int64_t begin = count / parts * thread + std::min<int64_t>(count % parts, thread);
    const int64_t end = begin + count / parts + (thread < count % parts ? 1 : 0);
    if (begin < end) body(begin, end, thread);
  };
  if (parts == 1 || count == 1) {
    for (int thread = 0; thread < parts; ++thread) part(thread);
    return;
  }
  impl_->run(part);
}

void ThreadPool::for_each(int64_t count, const std::function<void(int64_t, int)>& body) {
  if (size() == 1 || count == 1) {
    for (int64_t i = 0; i < count; ++i) body(i, 0);
    return;
  }
  std::atomic<int64_t> next{0};
  impl_->run([&](int thread) {
    for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) body(i, thread);
  });
}

int ThreadPool::hardware_threads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

}  // namespace longgen
