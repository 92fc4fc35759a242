#include "bench/products.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <thread>

#include "bench/shapes.h"
#include "longgen/backend/device_queue.h"
#include "longgen/base/checked.h"
#include "longgen/base/system.h"
#include "longgen/tensor/arena.h"

namespace longgen::bench {
namespace {

constexpr int64_t kFewRows = 64;
constexpr int64_t kBeyondCaches = int64_t{1} << 29;
// A call this short is timed several at a time.
constexpr double kFewFlops = 2e8, kFewDeviceFlops = 2e11, kMostCalls = 64;

class Matrices {
 public:
  Matrices(const ProductCase& c, Backend& backend)
      : c_(c),
        backend_(backend),
        copies_(copies(c)),
        arena_("products", backend.memory(), capacity(c)) {
    x_ = random({c.m, c.k}, 1);
    y_ = random({c.m, c.n}, 2);
    const Tensor all = random({copies_ * c.n, c.k}, 3);
    for (int64_t i = 0; i < copies_; ++i) weights_.push_back(all.slice(0, i * c.n, c.n));
    if (c.product == Product::kWeight) {
      dw_ = arena_.allocate("dw", accumulation_dtype(c.dtype), {c.n, c.k});
      backend_.zero(dw_);
    }
  }

  void run() {
    const WeightView w(weights_[next_]);
    next_ = (next_ + 1) % weights_.size();
    switch (c_.product) {
      case Product::kForward:
        return backend_.linear_forward(y_, x_, w, Tensor(), false);
      case Product::kInput:
        return backend_.linear_backward_input(x_, y_, w, false);
      case Product::kWeight:
        return backend_.linear_backward_weight(dw_, y_, x_);
    }
  }

 private:
  static int64_t copies(const ProductCase& c) {
    if (c.m >= kFewRows || c.product == Product::kWeight) return 1;
    return ceil_div(kBeyondCaches, c.n * c.k * dtype_size(c.dtype));
  }
  static int64_t capacity(const ProductCase& c) {
    const int64_t elements = (copies(c) * c.n + c.m) * c.k + c.m * c.n;
    return elements * dtype_size(c.dtype) + 4 * c.n * c.k + 64 * (copies(c) + 4);
  }
  Tensor random(std::initializer_list<int64_t> shape, uint64_t stream) {
    const Tensor x = arena_.allocate("random", c_.dtype, shape);
    fill_random(x, 1, c_.seed + stream, &backend_);
    return x;
  }

  const ProductCase& c_;
  Backend& backend_;
  int64_t copies_;
  Arena arena_;
  Tensor x_, y_, dw_;
  std::vector<Tensor> weights_;
  size_t next_ = 0;
};

}  // namespace

std::string product_name(Product product) {
  switch (product) {
    case Product::kForward:
      return "forward";
    case Product::kInput:
      return "dx";
    case Product::kWeight:
      break;
  }
  return "dw";
}

std::vector<ProductCase> products_of(const model::ModelConfig& c, int64_t tokens, Product product,
                                     DType dtype) {
  const int64_t q = c.num_heads * c.head_dim, kv = c.num_kv_heads * c.head_dim;
  const std::vector<std::pair<int64_t, int64_t>> shapes = {{q, c.hidden_size},
                                                           {kv, c.hidden_size},
                                                           {c.hidden_size, q},
                                                           {c.intermediate_size, c.hidden_size},
                                                           {c.hidden_size, c.intermediate_size},
                                                           {c.vocab_size, c.hidden_size}};
  std::vector<ProductCase> cases;
  for (const auto& [n, k] : shapes) {
    const bool known = std::any_of(cases.begin(), cases.end(),
                                   [&](const ProductCase& p) { return p.n == n && p.k == k; });
    if (!known) cases.push_back({tokens, n, k, product, dtype});
  }
  return cases;
}

namespace {

double flops_of(const ProductCase& c) {
  return 2 * static_cast<double>(c.m) * static_cast<double>(c.n) * static_cast<double>(c.k);
}

void check_sizes(const ProductCase& c) {
  if (c.m < 1 || c.n < 1 || c.k < 1) fail_usage("a product of {} x {} x {}", c.m, c.n, c.k);
}

// What every row of a product says.
Measurement row_of(const ProductCase& c) {
  Measurement m;
  m.flops = flops_of(c);
  m.dtype = c.dtype;
  m.name = fmt::format("{} x {} x {} {}", c.m, c.n, c.k, product_name(c.product));
  m.parameters = {{"m", c.m}, {"n", c.n}, {"k", c.k}, {"direction", product_name(c.product)}};
  return m;
}

// Seconds of a call while the device stays busy: what comes first heats it up.
double hot_seconds(DeviceQueue& queue, Matrices& matrices, double a_call) {
  constexpr double kHeating = 0.01, kTimed = 0.04;
  const auto run = [&](double seconds) {
    const int calls = std::max(1, static_cast<int>(std::lround(seconds / a_call)));
    return queue.seconds([&] {
      for (int i = 0; i < calls; ++i) matrices.run();
    }) / calls;
  };
  run(kHeating);
  return run(kTimed);
}

double rested_seconds(DeviceQueue& queue, Matrices& matrices) {
  constexpr int kCalls = 5;
  std::this_thread::sleep_for(std::chrono::milliseconds(250));
  std::vector<double> seconds;
  for (int i = 0; i <= kCalls; ++i) {
    const double once = queue.seconds([&] { matrices.run(); });
    if (i > 0) seconds.push_back(once);
  }
  return timing_of(std::move(seconds)).median();
}

}  // namespace

bool is_measured_in_turn(const ProductCase& c, Backend& backend) {
  return device_queue(backend) != nullptr && flops_of(c) >= kFewDeviceFlops;
}

ProductInTurn measure_product_in_turn(const ProductCase& c, Backend& backend,
                                      const Repeats& repeats) {
  constexpr double kHeating = 0.3;
  constexpr int kRestedTurns = 3;
  check_sizes(c);
  require(is_measured_in_turn(c, backend), "a product of {} x {} x {} in turn with its peak", c.m,
          c.n, c.k);
  const int64_t side = c.dtype == DType::kBF16 ? 8192 : 4096;
  const ProductCase reference{.m = side, .n = side, .k = side, .dtype = c.dtype, .seed = c.seed};
  Matrices own(c, backend), peak(reference, backend);
  DeviceQueue& queue = *device_queue(backend);
  const auto time_of = [&](Matrices& matrices) {
    matrices.run();  // chooses its kernel
    return queue.seconds([&] { matrices.run(); });
  };
  const double a_call = time_of(own), a_peak = time_of(peak);
  std::vector<double> hot[2], rested[2];  // the product, the peak
  for (double busy = 0; busy < kHeating; busy += kHeating / 6) hot_seconds(queue, peak, a_peak);
  double sum = 0;
  while (static_cast<int>(hot[0].size()) < repeats.most &&
         (static_cast<int>(hot[0].size()) < repeats.least || sum < repeats.seconds)) {
    hot[1].push_back(hot_seconds(queue, peak, a_peak));
    hot[0].push_back(hot_seconds(queue, own, a_call));
    sum += 0.1;
  }
  for (int i = 0; i < kRestedTurns; ++i) {
    rested[1].push_back(rested_seconds(queue, peak));
    rested[0].push_back(rested_seconds(queue, own));
  }
  const auto row = [&](std::vector<double>(&times)[2], const char* state) {
    Measurement m = row_of(c);
    m.timing = timing_of(std::move(times[0]));
    m.peak_flops = flops_of(reference) / timing_of(std::move(times[1])).median();
    m.name += fmt::format(", {}", state);
    m.parameters["state"] = state;
    return m;
  };
  return {row(hot, "hot"), row(rested, "rested")};
}

Measurement measure_product(const ProductCase& c, Backend& backend, const Repeats& repeats) {
  check_sizes(c);
  Measurement m = row_of(c);
  reset_peak_resident();
  Matrices matrices(c, backend);
  const double few = device_queue(backend) == nullptr ? kFewFlops : kFewDeviceFlops;
  const double most = device_queue(backend) == nullptr ? few : kMostCalls;
  const int calls = static_cast<int>(std::clamp(few / m.flops, 1.0, most));
  m.timing = measure_calls(
      backend, [&] { matrices.run(); }, calls, repeats);
  finish_breakdown(backend, m.timing.total() * calls, m);
  if (c.m < kFewRows && c.product != Product::kWeight) {
    m.bytes = static_cast<double>(c.n * c.k * dtype_size(c.dtype));
  }
  return m;
}

}  // namespace longgen::bench
