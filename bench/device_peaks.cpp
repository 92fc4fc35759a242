// What a device does at most: a large matrix product and a large copy, as libraries do them.
#include <algorithm>

#include "bench/peaks.h"
#include "bench/products.h"
#include "bench/shapes.h"
#include "longgen/tensor/arena.h"

namespace longgen::bench {
namespace {

constexpr Repeats kRepeats{.least = 5, .most = 20, .seconds = 0.3};

double product_rate(Backend& backend, int64_t size, DType dtype,
                    const Repeats& repeats = kRepeats) {
  const Measurement m =
      measure_product({.m = size, .n = size, .k = size, .dtype = dtype}, backend, repeats);
  return m.per_second(m.flops);
}

double copy_rate(Backend& backend) {
  const int64_t bytes = std::min<int64_t>(int64_t{2} << 30, backend.memory().available_bytes() / 8);
  Arena arena("copies", backend.memory(), 2 * bytes);
  const Tensor from = arena.allocate("from", DType::kF32, {bytes / 4});
  const Tensor to = arena.allocate("to", DType::kF32, {bytes / 4});
  fill_random(from, 1, 1, &backend);
  // Not as a graph, whose copies of 512 MB and more run at two thirds of the others' speed.
  const Timing timing = measure_call(
      backend, [&] { backend.copy(to, from); }, kRepeats);
  return 2 * static_cast<double>(from.bytes()) / timing.median();
}

}  // namespace

Peaks measure_device_peaks(Backend& backend) {
  Peaks peaks;
  peaks.arithmetic.push_back({"product 8192^3", "bf16", product_rate(backend, 8192, DType::kBF16)});
  peaks.arithmetic.push_back({"product 4096^3", "f32", product_rate(backend, 4096, DType::kF32)});
  peaks.read_bytes = copy_rate(backend);
  peaks.read_name = "device copy";
  return peaks;
}

ArithmeticPeak measure_sustained_product(Backend& backend) {
  constexpr Repeats kSecond{.least = 5, .most = 100000, .seconds = 1};
  product_rate(backend, 8192, DType::kBF16, kSecond);
  return {"product 8192^3, hot", "bf16", product_rate(backend, 8192, DType::kBF16, kSecond)};
}

}  // namespace longgen::bench
