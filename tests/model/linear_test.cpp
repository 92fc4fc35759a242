// Products whose weights and outputs lie side by side are one product with the same result.
#include "longgen/model/linear.h"

#include <gtest/gtest.h>

#include "longgen/model/buffers.h"
#include "tests/testing/golden_model.h"
#include "tests/testing/poisoned_memory.h"

namespace longgen::model {
namespace {

using longgen::testing::GoldenModel;
using longgen::testing::PoisonedMemory;
using longgen::testing::to_doubles;

// Columns [begin, begin + count) of x [T, n], contiguous.
std::vector<double> columns(const Tensor& x, int64_t begin, int64_t count) {
  std::vector<double> all;
  for (int64_t t = 0; t < x.dim(0); ++t) {
    const auto row = to_doubles(x.slice(0, t, 1).slice(1, begin, count));
    all.insert(all.end(), row.begin(), row.end());
  }
  return all;
}

TEST(SideBySide, IsFoundOnlyWhereColumnsFollow) {
  std::vector<double> memory(60);
  const Tensor wide(memory.data(), DType::kF64, {5, 12});
  const Tensor a = wide.slice(1, 0, 4), b = wide.slice(1, 4, 6), c = wide.slice(1, 10, 2);
  EXPECT_EQ(side_by_side(a, b).dim(1), 10);
  EXPECT_EQ(side_by_side(a, b).stride(0), 12);
  EXPECT_EQ(side_by_side(side_by_side(a, b), c).dim(1), 12);
  EXPECT_FALSE(side_by_side(b, a).defined());
  EXPECT_FALSE(side_by_side(a, c).defined());
  // The second row of `first` begins where `second` does.
  const Tensor first = Tensor(memory.data(), DType::kF64, {1, 12});
  const Tensor second = Tensor(memory.data() + 12, DType::kF64, {1, 12});
  EXPECT_FALSE(side_by_side(first, second).defined());
  EXPECT_TRUE(one_after_the_other(first, second).defined());
  EXPECT_FALSE(one_after_the_other(second, first).defined());
  EXPECT_FALSE(one_after_the_other(a, b).defined());
}

TEST(LinearForwardAll, GivesWhatEachProductGives) {
  for (const char* name : {"llama_gqa", "qwen2"}) {  // without biases, and with
    const GoldenModel golden(name);
    const auto backend = make_reference_backend();
    PoisonedMemory memory;
    const auto weights = golden.weights(DType::kF64, memory);
    const std::string prefix = "model.layers.1.self_attn.";
    const Linear q(*weights, prefix + "q_proj"), k(*weights, prefix + "k_proj"),
        v(*weights, prefix + "v_proj");
    const auto& c = golden.config;
    const int64_t nq = c.num_heads * c.head_dim, nk = c.num_kv_heads * c.head_dim, rows = 3;
    Arena arena("linear", memory, 1 << 20);
    const Tensor x = arena.allocate("x", DType::kF64, {rows, c.hidden_size});
    for (int64_t i = 0; i < x.numel(); ++i)
      x.data<double>()[i] = 0.01 * static_cast<double>(i % 37);
    const Tensor apart = arena.allocate("apart", DType::kF64, {rows, nq + 2 * nk});
    const Tensor joined = arena.allocate("joined", DType::kF64, {rows, nq + 2 * nk});
    const auto parts = [&](const Tensor& y) {
      return std::array{y.slice(1, 0, nq), y.slice(1, nq, nk), y.slice(1, nq + nk, nk)};
    };
    const auto a = parts(apart), j = parts(joined);
    q.forward(*backend, a[0], x);
    k.forward(*backend, a[1], x);
    v.forward(*backend, a[2], x);
    Linear::forward_all(*backend, {{q, j[0]}, {k, j[1]}, {v, j[2]}}, x);
    EXPECT_EQ(columns(joined, 0, nq + 2 * nk), columns(apart, 0, nq + 2 * nk)) << name;
  }
}

}  // namespace
}  // namespace longgen::model
