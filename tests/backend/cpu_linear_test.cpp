// Products of the cpu backend against the reference, on every instruction set of this processor.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/backend/parity.h"

namespace longgen::testing {
namespace {

// f32 sums of K products of uniform values: the rounding errors of the running sum grow as sqrt(K)
// in norm; 3e-8 sqrt(K) is half a unit in the last place a step.
double sum_error(int64_t k) { return 1e-7 + 3e-8 * std::sqrt(static_cast<double>(k)); }

struct Shape {
  int64_t rows, n, k;
};
std::string name(const Shape& s) {
  return std::to_string(s.rows) + " x " + std::to_string(s.n) + " x " + std::to_string(s.k);
}

// One, odd, around panels (14, 16, 32), around the road for few rows (8), several blocks.
const Shape kShapes[] = {{1, 1, 1},     {1, 3, 7},      {2, 5, 33},    {3, 64, 31},  {8, 67, 96},
                         {9, 33, 17},   {14, 32, 32},   {15, 31, 64},  {16, 48, 65}, {33, 95, 34},
                         {45, 130, 70}, {130, 257, 40}, {29, 65, 700}, {260, 40, 90}};

class CpuLinear : public CpuParity {};
INSTANTIATE_TEST_SUITE_P(All, CpuLinear, all_cpu_cases(), cpu_case_name);

TEST_P(CpuLinear, Forward) {
  for (const Shape& s : kShapes) {
    for (const bool accumulate : {false, true}) {
      for (const bool wide : {false, true}) {  // an f32 output
        const DType out = wide ? DType::kF32 : dtype();
        Operand& x = input({s.rows, s.k}, 1, 3);
        Operand& w = input({s.n, s.k}, 1, 5);
        Operand& bias = input({s.n});
        Operand& y = accumulate ? input(out, {s.rows, s.n}, 1, 2) : output(out, {s.rows, s.n}, 2);
        run([&](Backend& b, auto t) {
          b.linear_forward(t(y), t(x), {t(w)}, wide ? Tensor() : t(bias), accumulate);
        });
        expect_close(y, sum_error(s.k), name(s) + (accumulate ? " +=" : ""));
      }
    }
  }
}

// The same bits as a copy that is then added to; the base stays as it was.
TEST_P(CpuLinear, ForwardOnto) {
  for (const Shape& s : kShapes) {
    for (const bool wide : {false, true}) {  // an f32 output
      const DType out = wide ? DType::kF32 : dtype();
      Operand& x = input({s.rows, s.k}, 1, 3);
      Operand& w = input({s.n, s.k}, 1, 5);
      Operand& bias = input({s.n});
      Operand& base = input(out, {s.rows, s.n}, 1, 3);
      Operand& y = output(out, {s.rows, s.n}, 2);
      Operand& copied = output(out, {s.rows, s.n}, 2);
      const auto before = base.bytes();
      run([&](Backend& b, auto t) {
        b.linear_forward_onto(t(y), t(base), t(x), {t(w)}, wide ? Tensor() : t(bias));
        b.copy(t(copied), t(base));
        b.linear_forward(t(copied), t(x), {t(w)}, wide ? Tensor() : t(bias), true);
      });
      expect_close(y, sum_error(s.k), name(s));
      EXPECT_EQ(y.bytes(), copied.bytes()) << name(s);
      EXPECT_EQ(base.bytes(), before) << name(s);
    }
  }
  Operand& small = input({2, 3});
  Operand& y = output({2, 4});
  EXPECT_THROW(cpu().linear_forward_onto(y.tested(), small.tested(), small.tested(),
                                         {input({4, 3}).tested()}, {}),
               Error);
}

TEST_P(CpuLinear, BackwardInput) {
  for (const Shape& s : kShapes) {
    for (const bool accumulate : {false, true}) {
      const DType out = accumulate ? DType::kF32 : dtype();
      Operand& dy = input({s.rows, s.n}, 1, 1);
      Operand& w = input({s.n, s.k}, 1, 4);
      Operand& dx = accumulate ? input(out, {s.rows, s.k}, 1, 2) : output(out, {s.rows, s.k}, 2);
      run([&](Backend& b, auto t) { b.linear_backward_input(t(dx), t(dy), {t(w)}, accumulate); });
      expect_close(dx, sum_error(s.n), name(s) + (accumulate ? " +=" : ""));
    }
  }
}

TEST_P(CpuLinear, BackwardWeightAndBias) {
  for (const Shape& s : kShapes) {
    Operand& dy = input({s.rows, s.n}, 1, 1);
    Operand& x = input({s.rows, s.k}, 1, 3);
    Operand& dw = input(DType::kF32, {s.n, s.k}, 1, 2);
    Operand& dbias = input(DType::kF32, {s.n});
    run([&](Backend& b, auto t) {
      b.linear_backward_weight(t(dw), t(dy), t(x));
      b.linear_backward_bias(t(dbias), t(dy));
    });
    expect_close(dw, sum_error(s.rows), name(s) + " dw");
    expect_close(dbias, sum_error(s.rows), name(s) + " dbias");
  }
}

// k beyond one pass of the driver: partial sums wait in f32, also when the output is bf16.
TEST_P(CpuLinear, LongSums) {
  const Shape s = {20, 7000, 37};
  Operand& dy = input({s.rows, s.n});
  Operand& w = input({s.n, s.k});
  Operand& dx = output({s.rows, s.k});
  run([&](Backend& b, auto t) { b.linear_backward_input(t(dx), t(dy), {t(w)}, false); });
  expect_close(dx, sum_error(s.n), "7000 terms");
}

// Rows in place and packed (2048 bytes apart they share places of the cache), k in one part and in
// several, last strips of more and of fewer than 16 rows; weight gradients over several passes,
// with dy packed where it is used and, for the widest, beforehand.
TEST_P(CpuLinear, LargerBlocks) {
  for (const Shape& s : {Shape{75, 100, 608}, Shape{41, 70, 1024}, Shape{105, 90, 1536},
                         Shape{1300, 35, 600}, Shape{300, 33, 2600}}) {
    Operand& x = input({s.rows, s.k});
    Operand& w = input({s.n, s.k});
    Operand& y = output({s.rows, s.n});
    Operand& dy = input({s.rows, s.n});
    Operand& dw = input(DType::kF32, {s.n, s.k});
    run([&](Backend& b, auto t) {
      b.linear_forward(t(y), t(x), {t(w)}, {}, false);
      b.linear_backward_weight(t(dw), t(dy), t(x));
    });
    expect_close(y, sum_error(s.k), name(s));
    expect_close(dw, sum_error(s.rows), name(s) + " dw");
  }
}

// Results larger than caches (written past them by tiles): rows do not depend on who else is there.
TEST_P(CpuLinear, StreamsLargeResults) {
  const Shape s = {64, 160 << 10, 32};
  Operand& x = input({s.rows, s.k});
  Operand& w = input({s.n, s.k});
  Operand& whole = output(DType::kF32, {s.rows, s.n});
  Operand& parts = output(DType::kF32, {s.rows, s.n});
  cpu().linear_forward(whole.tested(), x.tested(), {w.tested()}, {}, false);
  for (const int64_t begin : {0, 32}) {
    cpu().linear_forward(parts.tested().slice(0, begin, 32), x.tested().slice(0, begin, 32),
                         {w.tested()}, {}, false);
  }
  EXPECT_EQ(whole.bytes(), parts.bytes());
}

// Nothing to sum over leaves dw alone; no rows leave everything alone.
TEST_P(CpuLinear, NoRows) {
  Operand& dw = input(DType::kF32, {5, 4});
  Operand& one = input({1, 9});
  const auto before = dw.bytes();
  const Tensor none_x = Tensor(one.tested().raw(), dtype(), {0, 4});
  const Tensor none_y = Tensor(one.tested().raw(), dtype(), {0, 5});
  cpu().linear_backward_weight(dw.tested(), none_y, none_x);
  EXPECT_EQ(dw.bytes(), before);
  Operand& w = input({5, 4});
  cpu().linear_forward(none_y, none_x, {w.tested()}, {}, false);
  cpu().linear_backward_input(none_x, none_y, {w.tested()}, false);
}

// A row's result does not depend on the rows beside it, nor on the number of threads: chunked
// prefill and training then agree with whole sequences to the bit (8 rows and fewer take another
// road).
TEST_P(CpuLinear, RowsAreIndependent) {
  const Shape s = {203, 150, 650};
  Operand& x = input({s.rows, s.k});
  Operand& w = input({s.n, s.k});
  Operand& whole = output({s.rows, s.n});
  cpu().linear_forward(whole.tested(), x.tested(), {w.tested()}, {}, false);
  const auto three_threads = make_cpu_backend(3, isa());
  for (const int64_t count : {9, 14, 31, 64, 150}) {
    Operand& part = output({count, s.n});
    const int64_t begin = 203 - count;
    three_threads->linear_forward(part.tested(), x.tested().slice(0, begin, count), {w.tested()},
                                  {}, false);
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t j = 0; j < s.n; ++j) {
        ASSERT_EQ(part.actual(r, j), whole.actual(begin + r, j)) << count << " rows, row " << r;
      }
    }
  }
  for (const int64_t count : {1, 2, 3, 5}) {  // and so among themselves do the few
    Operand& few = output({8, s.n});
    Operand& part = output({count, s.n});
    cpu().linear_forward(few.tested(), x.tested().slice(0, 0, 8), {w.tested()}, {}, false);
    cpu().linear_forward(part.tested(), x.tested().slice(0, 0, count), {w.tested()}, {}, false);
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t j = 0; j < s.n; ++j) ASSERT_EQ(part.actual(r, j), few.actual(r, j)) << count;
    }
  }
}

TEST_P(CpuLinear, SameBitsEveryTime) {
  Operand& x = input({150, 90});
  Operand& dy = input({150, 70});
  Operand& first = input(DType::kF32, {70, 90});
  const auto start = first.bytes();
  cpu().linear_backward_weight(first.tested(), dy.tested(), x.tested());
  for (int i = 0; i < 20; ++i) {
    Operand& again = input(DType::kF32, {70, 90}, 0);
    std::memcpy(again.tested().raw(), start.data(), start.size());
    cpu().linear_backward_weight(again.tested(), dy.tested(), x.tested());
    ASSERT_EQ(again.bytes(), first.bytes());
  }
}

// NaN and infinity reach the outputs that they belong to, and no others.
TEST_P(CpuLinear, NonFinitesStayInTheirRow) {
  Operand& x = input({20, 40});
  Operand& w = input({50, 40});
  Operand& y = output({20, 50});
  x.set(3, 5, std::numeric_limits<double>::quiet_NaN());
  x.set(17, 39, std::numeric_limits<double>::infinity());
  cpu().linear_forward(y.tested(), x.tested(), {w.tested()}, {}, false);
  for (int64_t r = 0; r < 20; ++r) {
    for (int64_t j = 0; j < 50; ++j) {
      ASSERT_EQ(std::isfinite(y.actual(r, j)), r != 3 && r != 17) << r << ", " << j;
    }
  }
}

TEST_P(CpuLinear, RejectsWhatDoesNotFit) {
  Operand& x = input({4, 6});
  Operand& w = input({5, 7});
  Operand& y = output({4, 5});
  try {
    cpu().linear_forward(y.tested(), x.tested(), {w.tested()}, {}, false);
    FAIL() << "6 columns times 7 went through";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("linear_forward: x is [4, 6]"), std::string::npos)
        << e.what();
  }
  Operand& doubles = input({4, 6});
  EXPECT_THROW(cpu().linear_forward(y.tested(), doubles.reference(), {w.tested()}, {}, false),
               Error);
  EXPECT_THROW(cpu().linear_backward_weight(y.tested(), x.tested(), w.tested()), Error);
}

}  // namespace
}  // namespace longgen::testing
