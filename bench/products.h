// Matrix products alone, as a decoder forms them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bench/measurement.h"
#include "longgen/backend/backend.h"
#include "longgen/model/config.h"

namespace longgen::bench {

// kForward: y [m, n] = x [m, k] w^T. kInput: dx [m, k] = dy w. kWeight: dw [n, k] += dy^T x.
enum class Product : uint8_t { kForward, kInput, kWeight };
std::string product_name(Product product);

struct ProductCase {
  int64_t m = 2048, n = 1536, k = 576;
  Product product = Product::kForward;
  DType dtype = DType::kBF16;
  uint64_t seed = 0;
};

// The distinct products of one layer and the head for `tokens` rows.
std::vector<ProductCase> products_of(const model::ModelConfig& config, int64_t tokens,
                                     Product product, DType dtype);

// With few rows (a decode step) the weights come from memory: calls go round copies of 512 MB
// together, and bytes counts them. With many rows one copy stays where the caches keep it.
Measurement measure_product(const ProductCase& c, Backend& backend, const Repeats& repeats);

// A large product of a device beside its peak, like with like: the peak's own product (8192^3, f32:
// 4096^3) and this one take turns in each of the two states that a GPU's power leaves it in.
struct ProductInTurn {
  Measurement hot;     // one behind the other without a pause: at the clocks that the power allows
  Measurement rested;  // each behind a quarter of a second of rest: a first call, then five
};
// Whether a device's clocks matter to a product: it is large, and timed by the device.
bool is_measured_in_turn(const ProductCase& c, Backend& backend);
ProductInTurn measure_product_in_turn(const ProductCase& c, Backend& backend,
                                      const Repeats& repeats);

}  // namespace longgen::bench
