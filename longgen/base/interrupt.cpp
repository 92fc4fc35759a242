#include "longgen/base/interrupt.h"

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <ctime>

namespace longgen {
namespace {

constexpr int64_t kOneRequest = 500'000'000;  // ns

// A signal handler can reach nothing but a global. When the first request came; 0: none.
std::atomic<int64_t> requested_at = 0;
std::atomic<const char*> stop_notice = "";
static_assert(std::atomic<int64_t>::is_always_lock_free);

int64_t now_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);  // allowed in a signal handler
  return int64_t{1'000'000'000} * now.tv_sec + now.tv_nsec;
}

void on_signal(int number) {
  const int64_t now = now_ns();
  int64_t first = 0;
  if (requested_at.compare_exchange_strong(first, now)) {
    const int error = errno;
    const char* text = stop_notice;
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text, std::strlen(text));
    errno = error;
    return;
  }
  if (now - first < kOneRequest) return;
  std::signal(number, SIG_DFL);
  std::raise(number);  // takes effect when this handler returns
}

void install(int number) {
  struct sigaction action = {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(number, &action, nullptr);
}

}  // namespace

InterruptGuard::InterruptGuard(const char* notice) {
  stop_notice = notice;
  requested_at = 0;
  install(SIGINT);
  install(SIGTERM);
}

InterruptGuard::~InterruptGuard() {
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
}

bool InterruptGuard::requested() const { return requested_at != 0; }

}  // namespace longgen
