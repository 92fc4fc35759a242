// Everything of the cpu backend that is neither a product nor attention, against the reference, on
// every instruction set of this processor.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "tests/backend/parity.h"

namespace longgen::testing {
namespace {

// A few roundings of 6e-8 each, and vector functions good to about 2 units in the last place.
constexpr double kPointwiseError = 5e-7;
// Sums over a row of up to a few hundred values on top of that.
constexpr double kRowError = 1e-6;
const int64_t kLengths[] = {1, 3, 4, 7, 8, 15, 16, 17, 33, 64, 100, 576};

class CpuRows : public CpuParity {};
INSTANTIATE_TEST_SUITE_P(All, CpuRows, all_cpu_cases(), cpu_case_name);

TEST_P(CpuRows, Embedding) {
  for (const int64_t d : kLengths) {
    const Tensor index = ids({4, 0, 9, 4, 4, 1});
    Operand& table = input({10, d}, 1, 3);
    Operand& out = output({6, d}, 2);
    Operand& dtable = input(DType::kF32, {10, d});
    run([&](Backend& b, auto t) {
      b.embedding_forward(t(out), t(table), index, false);
      b.embedding_forward(t(out), t(table), index, true);
      b.embedding_backward(t(dtable), t(out), index);
    });
    expect_close(out, kPointwiseError, "embedding");
  }
}

// Gradients of repeated ids are summed in order; the input is exact, so that only the sum can err.
TEST_P(CpuRows, EmbeddingBackward) {
  for (const int64_t d : {int64_t{1}, int64_t{65}, int64_t{300}}) {
    std::vector<int32_t> repeated;
    for (int i = 0; i < 200; ++i) repeated.push_back(i * i % 7);
    const Tensor index = ids(repeated);
    Operand& dout = input({200, d}, 1, 1);
    Operand& dtable = input(DType::kF32, {7, d}, 1, 2);
    run([&](Backend& b, auto t) { b.embedding_backward(t(dtable), t(dout), index); });
    expect_close(dtable, kRowError, "dtable");
  }
}

TEST_P(CpuRows, EmbeddingRejectsIdsOutside) {
  Operand& table = input({10, 4});
  Operand& out = output({2, 4});
  EXPECT_THROW(cpu().embedding_forward(out.tested(), table.tested(), ids({1, 10}), false), Error);
  EXPECT_THROW(cpu().embedding_forward(out.tested(), table.tested(), ids({-1, 1}), false), Error);
}

TEST_P(CpuRows, NormForward) {
  for (const NormKind kind : {NormKind::kRms, NormKind::kLayer}) {
    for (const int64_t d : kLengths) {
      Operand& x = input({13, d}, 2, 3);
      if (kind == NormKind::kLayer)
        x.fill([&](int64_t r, int64_t i) { return x.exact(r, i) + 0.5; });
      Operand& weight = input({d});
      Operand& bias = input({d});
      Operand& out = output({13, d}, 1);
      Operand& plain = output({13, d});
      Operand& stats = output(DType::kF32, {13, 2});
      run([&](Backend& b, auto t) {
        b.norm_forward(kind, t(out), t(stats), t(x), t(weight), t(bias), 1e-5);
        b.norm_forward(kind, t(plain), {}, t(x), t(weight), {}, 1e-5);
      });
      const std::string what = "d " + std::to_string(d);
      // One channel: x - mean is 0, and what f32 leaves of it is divided by sqrt(eps).
      const double error = d == 1 && kind == NormKind::kLayer ? 1e-4 : kRowError;
      expect_close(out, error, what);
      expect_close(plain, error, what + " without bias");
      expect_close(stats, kRowError, what + " stats");
    }
  }
}

// [T, heads, d] with strides, as QK norm sees it inside a fused projection; in place.
TEST_P(CpuRows, NormOfHeads) {
  Operand& fused = input({30, 3, 80}, 1, 7);
  Operand& weight = input({16});
  run([&](Backend& b, auto t) {
    const Tensor heads = t(fused).slice(2, 16, 16);
    b.norm_forward(NormKind::kRms, heads, {}, heads, t(weight), {}, 1e-6);
  });
  expect_close(fused, kRowError, "one slice of three heads");
}

TEST_P(CpuRows, NormBackward) {
  for (const NormKind kind : {NormKind::kRms, NormKind::kLayer}) {
    for (const bool accumulate : {false, true}) {
      for (const int64_t d : {3, 16, 33, 100, 576}) {
        Operand& x = input({41, d}, 1, 3);
        Operand& weight = input({d});
        Operand& y = output({41, d});
        Operand& dy = input({41, d}, 1, 2);
        Operand& stats = output(DType::kF32, {41, 2});
        Operand& dx = accumulate ? input({41, d}, 1, 1) : output({41, d}, 1);
        Operand& dweight = input(DType::kF32, {d});
        Operand& dbias = input(DType::kF32, {d});
        run([&](Backend& b, auto t) {
          b.norm_forward(kind, t(y), t(stats), t(x), t(weight), {}, 1e-5);
          b.norm_backward(kind, t(dx), accumulate, t(dweight), t(dbias), t(dy), t(x), t(stats),
                          t(weight));
        });
        const std::string what = "d " + std::to_string(d);
        // Of 3 channels little is left once mean and scale are taken out: the rest cancels.
        const double error = d == 3 ? 1e-4 : 2 * kRowError;
        expect_close(dx, error, what);
        expect_close(dweight, error, what + " dweight");
        expect_close(dbias, kRowError, what + " dbias");
      }
    }
  }
}

TEST_P(CpuRows, NormBackwardInPlaceAndWithoutParameters) {
  Operand& x = input({9, 40});
  Operand& weight = input({40});
  Operand& stats = output(DType::kF32, {9, 2});
  Operand& y = output({9, 40});
  Operand& dy = input({9, 40});
  run([&](Backend& b, auto t) {
    b.norm_forward(NormKind::kRms, t(y), t(stats), t(x), t(weight), {}, 1e-5);
    b.norm_backward(NormKind::kRms, t(dy), false, {}, {}, t(dy), t(x), t(stats), t(weight));
  });
  expect_close(dy, 2 * kRowError, "dx over dy");
}

TEST_P(CpuRows, Rope) {
  for (const int64_t rotary : {2, 8, 32, 48, 64}) {
    const int64_t heads = 3, d = 64;
    Operand& table = input(DType::kF32, {11, rotary});
    Operand& x = input({5, heads, d}, 1, 9);
    Operand& back = input({5, heads, d}, 1, 9);
    const Tensor positions = ids({0, 10, 3, 3, 7});
    run([&](Backend& b, auto t) {
      const Tensor f32_table = table.tested();
      b.rope(t(x), f32_table, positions, false);
      b.rope(t(back), f32_table, positions, true);
    });
    expect_close(x, kPointwiseError, "rotary " + std::to_string(rotary));
    expect_close(back, kPointwiseError, "inverse, rotary " + std::to_string(rotary));
  }
}

TEST_P(CpuRows, RopeRejectsPositionsOutside) {
  Operand& table = input(DType::kF32, {4, 8});
  Operand& x = input({1, 1, 16});
  EXPECT_THROW(cpu().rope(x.tested(), table.tested(), ids({4}), false), Error);
  Operand& wide = input(DType::kF32, {4, 32});
  EXPECT_THROW(cpu().rope(x.tested(), wide.tested(), ids({0}), false), Error);
}

const Activation kActivations[] = {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh,
                                   Activation::kRelu};

TEST_P(CpuRows, Activation) {
  for (const Activation act : kActivations) {
    for (const int64_t f : kLengths) {
      for (const bool gated : {false, true}) {
        Operand& gate = input({7, f}, 5, 3);
        Operand& up = input({7, f}, 1, 2);
        Operand& dout = input({7, f});
        Operand& out = output({7, f}, 1);
        Operand& dgate = output({7, f});
        Operand& dup = output({7, f});
        run([&](Backend& b, auto t) {
          const Tensor second = gated ? t(up) : Tensor();
          b.activation_forward(act, t(out), t(gate), second);
          b.activation_backward(act, t(dgate), gated ? t(dup) : Tensor(), t(dout), t(gate), second);
        });
        const std::string what = std::to_string(static_cast<int>(act)) + ", f " + std::to_string(f);
        expect_close(out, kPointwiseError, what);
        expect_close(dgate, kPointwiseError, what + " dgate");
        if (gated) expect_close(dup, kPointwiseError, what + " dup");
      }
    }
  }
}

// The bits of activation_forward and activation_backward, gradients over their inputs, too.
TEST_P(CpuRows, ActivationBoth) {
  for (const Activation act : kActivations) {
    for (const bool gated : {false, true}) {
      for (const int64_t f : kLengths) {
        Operand& gate = input({7, f}, 5, 3);
        Operand& up = input({7, f}, 1, 2);
        Operand& dout = input({7, f});
        Operand& out = output({7, f}, 1);
        Operand& dgate = output({7, f}, 3);
        Operand& dup = output({7, f}, 2);
        Operand& both = output({7, f}, 1);
        run([&](Backend& b, auto t) {
          const Tensor second = gated ? t(up) : Tensor();
          b.activation_forward(act, t(out), t(gate), second);
          b.activation_backward(act, t(dgate), gated ? t(dup) : Tensor(), t(dout), t(gate), second);
          b.activation_both(act, t(both), t(gate), second, t(dout), t(gate), second);
        });
        const std::string what = std::to_string(static_cast<int>(act)) + ", f " + std::to_string(f);
        expect_close(both, kPointwiseError, what);
        EXPECT_EQ(both.bytes(), out.bytes()) << what;
        EXPECT_EQ(gate.bytes(), dgate.bytes()) << what << " dgate";
        if (gated) {
          EXPECT_EQ(up.bytes(), dup.bytes()) << what << " dup";
        }
      }
    }
  }
}

// Saturation and the joints of the approximations, from -100 to 100.
TEST_P(CpuRows, ActivationOverAWideRange) {
  for (const Activation act : kActivations) {
    Operand& gate = input({1, 4001});
    gate.fill([](int64_t, int64_t i) { return static_cast<double>(i - 2000) * 0.005; });
    Operand& far = input({1, 401});
    far.fill([](int64_t, int64_t i) { return static_cast<double>(i - 200) * 0.5; });
    Operand& one = input({1, 4001}, 0);
    one.fill([](int64_t, int64_t) { return 1.0; });
    Operand& out = output({1, 4001});
    Operand& slope = output({1, 4001});
    Operand& far_out = output({1, 401});
    run([&](Backend& b, auto t) {
      b.activation_forward(act, t(out), t(gate), {});
      b.activation_backward(act, t(slope), {}, t(one), t(gate), {});
      b.activation_forward(act, t(far_out), t(far), {});
    });
    for (int64_t i = 0; i < 4001; ++i) {
      // Absolute where the function is small, for 1 + erf cancels there.
      const auto near = [&](const Operand& x) {
        const double exact = x.exact(0, i), rounding = std::abs(x.rounded(exact) - exact);
        ASSERT_NEAR(x.actual(0, i), exact, 2 * rounding + 6e-7 * std::max(1.0, std::abs(exact)))
            << static_cast<int>(act) << " at " << gate.exact(0, i);
      };
      ASSERT_NO_FATAL_FAILURE(near(out));
      ASSERT_NO_FATAL_FAILURE(near(slope));
    }
    expect_close(far_out, kPointwiseError, "far");
  }
}

TEST_P(CpuRows, ActivationBackwardOverItsInputs) {
  Operand& gate = input({5, 50}, 3);
  Operand& up = input({5, 50});
  Operand& dout = input({5, 50});
  run([&](Backend& b, auto t) {
    // The reference reads before it writes per element, as every backend must.
    b.activation_backward(Activation::kSilu, t(gate), t(up), t(dout), t(gate), t(up));
  });
  // Reference and cpu agree only if neither destroys what it has yet to read.
  expect_close(gate, kPointwiseError, "dgate over gate");
}

TEST_P(CpuRows, Add) {
  for (const int64_t n : kLengths) {
    Operand& a = input({9, n}, 1, 3);
    Operand& b = input({9, n});
    Operand& out = output({9, n}, 1);
    run([&](Backend& backend, auto t) {
      backend.add(t(out), t(a), t(b));
      backend.add(t(a), t(a), t(b));
    });
    expect_close(out, kPointwiseError, "out");
    expect_close(a, kPointwiseError, "in place");
  }
}

TEST_P(CpuRows, SoftmaxCrossEntropy) {
  for (const int64_t n : {1, 2, 15, 17, 272, 5000}) {
    Operand& logits = input(DType::kF32, {6, n}, 8, 3);
    Operand& losses = output(DType::kF32, {6});
    Operand& dlogits = output({6, n}, 2);
    Operand& alone = output(DType::kF32, {6});
    const auto last = static_cast<int32_t>(n - 1);
    const Tensor labels = ids({0, last, -1, last / 2, -1, 0});
    run([&](Backend& b, auto t) {
      b.softmax_cross_entropy(t(losses), t(dlogits), t(logits), labels, 0.25);
      b.softmax_cross_entropy(t(alone), {}, t(logits), labels, 0.25);
    });
    const std::string what = "classes " + std::to_string(n);
    // exp of a difference of logits up to 16 apart, itself rounded to 1e-6.
    expect_close(losses, 2e-6, what + " losses");
    expect_close(alone, 2e-6, what + " losses alone");
    expect_close(dlogits, 2e-6, what + " dlogits");
  }
}

TEST_P(CpuRows, SoftmaxCrossEntropyOfExtremeLogits) {
  Operand& logits = input(DType::kF32, {3, 40});
  logits.fill([](int64_t r, int64_t i) {
    if (r == 0) return i == 7 ? 1e4 : -1e4;
    if (r == 1) return i == 7 ? -std::numeric_limits<double>::infinity() : 80.0;
    return 1e6;
  });
  Operand& losses = output(DType::kF32, {3});
  Operand& dlogits = output({3, 40});
  const Tensor labels = ids({7, 0, 39});
  run([&](Backend& b, auto t) {
    b.softmax_cross_entropy(t(losses), t(dlogits), t(logits), labels, 1.0);
  });
  expect_close(losses, 2e-6, "losses");
  expect_close(dlogits, 2e-6, "dlogits");
}

TEST_P(CpuRows, SoftmaxCrossEntropyRejectsLabelsOutside) {
  Operand& logits = input(DType::kF32, {1, 5});
  Operand& losses = output(DType::kF32, {1});
  for (const int32_t label : {5, -2}) {
    EXPECT_THROW(
        cpu().softmax_cross_entropy(losses.tested(), {}, logits.tested(), ids({label}), 1.0),
        Error);
  }
}

TEST_P(CpuRows, SumOfSquares) {
  for (const int64_t n : {1, 5, 1000, 40001}) {
    Operand& x = input({2, n});
    Operand& strided = input({2, n}, 1, 3);
    // Summed in f64: exact to f64.
    for (Operand* o : {&x, &strided}) {
      const double exact = reference().sum_of_squares(o->reference());
      const double sum = cpu().sum_of_squares(o->tested());
      EXPECT_NEAR(sum, exact, 1e-12 * exact);
      EXPECT_EQ(sum, cpu().sum_of_squares(o->tested()));
      EXPECT_EQ(sum, make_cpu_backend(1, isa())->sum_of_squares(o->tested()));
    }
  }
}

TEST_P(CpuRows, AdamW) {
  const int64_t n = 9001;
  Operand& master = input(DType::kF32, {n});
  Operand& weights = output({n});
  Operand& m = input(DType::kF32, {n}, 0);
  Operand& v = input(DType::kF32, {n}, 0);
  for (int step = 1; step <= 3; ++step) {
    Operand& gradient = input(DType::kF32, {n});
    AdamW args{.lr = 0.01, .weight_decay = 0.1, .step = step, .gradient_scale = 0.5};
    run([&](Backend& b, auto t) {
      b.adamw_step(t(weights), t(master), t(m), t(v), t(gradient), args);
    });
  }
  // Steps are 0.01 of weights of about 0.5, each good to a few roundings.
  expect_close(master, kPointwiseError, "master");
  expect_close(weights, kPointwiseError, "weights");
  expect_close(m, kPointwiseError, "m");
  expect_close(v, kPointwiseError, "v");
}

TEST_P(CpuRows, AdamWOnTheMasterItself) {
  Operand& master = input(DType::kF32, {100});
  Operand& m = input(DType::kF32, {100}, 0);
  Operand& v = input(DType::kF32, {100}, 0);
  Operand& gradient = input(DType::kF32, {100});
  run([&](Backend& b, auto t) {
    b.adamw_step(t(master), t(master), t(m), t(v), t(gradient), {.lr = 0.1});
  });
  expect_close(master, kPointwiseError, "master");
  Operand& half = input(DType::kF32, {2, 50}, 1, 1);
  EXPECT_THROW(cpu().adamw_step(half.tested(), half.tested(), m.tested(), v.tested(),
                                gradient.tested(), {.lr = 0.1}),
               Error);
}

TEST_P(CpuRows, ZeroAndCopy) {
  for (const int64_t n : kLengths) {
    Operand& x = input({3, n}, 1, 3);
    Operand& other = output(dtype() == DType::kF32 ? DType::kBF16 : DType::kF32, {3, n}, 1);
    Operand& same = output({3, n}, 2);
    cpu().copy(other.tested(), x.tested());
    cpu().copy(same.tested(), x.tested());
    std::vector<double> wide(static_cast<size_t>(3 * n));
    const Tensor doubles = Tensor::of(std::span<double>(wide)).reshape({3, n});
    cpu().copy(doubles, x.tested());
    for (int64_t r = 0; r < 3; ++r) {
      for (int64_t i = 0; i < n; ++i) {
        ASSERT_EQ(other.actual(r, i), other.rounded(x.exact(r, i)));
        ASSERT_EQ(same.actual(r, i), x.exact(r, i));
        ASSERT_EQ(wide[static_cast<size_t>(r * n + i)], x.exact(r, i));
      }
    }
    cpu().zero(x.tested());
    ASSERT_TRUE(x.gaps_intact());
    for (int64_t i = 0; i < n; ++i) ASSERT_EQ(x.actual(2, i), 0.0);
  }
}

// f64 to bf16 rounds once: 1 + 2^-8 + 2^-40 is above the tie, but f32 cannot see that.
TEST_P(CpuRows, CopyRoundsOnce) {
  std::vector<double> wide = {1 + std::ldexp(1, -8) + std::ldexp(1, -40),
                              -(1 + std::ldexp(1, -8) + std::ldexp(1, -40)),
                              1 + std::ldexp(1, -8) - std::ldexp(1, -40),
                              1 + std::ldexp(1, -8),
                              1e300,
                              std::numeric_limits<double>::quiet_NaN()};
  std::vector<bf16> out(wide.size());
  cpu().copy(Tensor::of(std::span<bf16>(out)), Tensor::of(std::span<double>(wide)));
  const double ulp = std::ldexp(1, -7);
  const double expected[] = {1 + ulp, -(1 + ulp), 1, 1, std::numeric_limits<double>::infinity()};
  for (size_t i = 0; i < 5; ++i) EXPECT_EQ(static_cast<double>(out[i]), expected[i]) << i;
  EXPECT_TRUE(std::isnan(static_cast<double>(out[5])));
}

// Sums over rows are cut by threads alone: the same bits every time.
TEST_P(CpuRows, SameBitsEveryTime) {
  Operand& x = input({500, 48});
  Operand& dy = input({500, 48});
  Operand& weight = input({48});
  Operand& y = output({500, 48});
  Operand& dx = output({500, 48});
  Operand& stats = output(DType::kF32, {500, 2});
  cpu().norm_forward(NormKind::kLayer, y.tested(), stats.tested(), x.tested(), weight.tested(), {},
                     1e-5);
  std::vector<unsigned char> first;
  for (int i = 0; i < 20; ++i) {
    Operand& dweight = input(DType::kF32, {48}, 0);
    cpu().norm_backward(NormKind::kLayer, dx.tested(), false, dweight.tested(), {}, dy.tested(),
                        x.tested(), stats.tested(), weight.tested());
    if (i == 0) first = dweight.bytes();
    ASSERT_EQ(dweight.bytes(), first);
  }
}

}  // namespace
}  // namespace longgen::testing
