#include "bench/products.h"

#include <algorithm>

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

Measurement measure_product(const ProductCase& c, Backend& backend, const Repeats& repeats) {
  if (c.m < 1 || c.n < 1 || c.k < 1) fail_usage("a product of {} x {} x {}", c.m, c.n, c.k);
  Measurement m;
  m.flops = 2 * static_cast<double>(c.m) * static_cast<double>(c.n) * static_cast<double>(c.k);
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
  m.dtype = c.dtype;
  m.name = fmt::format("{} x {} x {} {}", c.m, c.n, c.k, product_name(c.product));
  m.parameters = {{"m", c.m}, {"n", c.n}, {"k", c.k}, {"direction", product_name(c.product)}};
  return m;
}

}  // namespace longgen::bench
