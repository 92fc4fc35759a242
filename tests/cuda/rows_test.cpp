// Row-by-row operations and products of the cuda backend against the reference.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/cuda/cuda_parity.h"

namespace longgen::testing {
namespace {

// f32 sums of K products of uniform values: see cpu_linear_test.cpp.
double sum_error(int64_t k) { return 1e-7 + 3e-8 * std::sqrt(static_cast<double>(k)); }
// Functions of f32 values through the GPU's approximate exponentials: a few units in the last
// place.
constexpr double kPointwise = 2e-6;

class CudaRows : public CudaParity {};
INSTANTIATE_TEST_SUITE_P(All, CudaRows, cuda_cases(), cuda_case_name);

struct Shape {
  int64_t rows, n, k;
};
const Shape kShapes[] = {{1, 8, 8},     {1, 64, 576},    {3, 24, 40},      {64, 64, 64},
                         {65, 136, 72}, {130, 264, 200}, {300, 576, 1536}, {7, 1000, 96}};

TEST_P(CudaRows, LinearForward) {
  for (const Shape& s : kShapes) {
    for (const bool accumulate : {false, true}) {
      for (const bool wide : {false, true}) {
        const DType out = wide ? DType::kF32 : dtype();
        Operand& x = input({s.rows, s.k}, 1, 8);
        Operand& w = input({s.n, s.k});
        Operand& bias = input({s.n});
        Operand& y = accumulate ? input(out, {s.rows, s.n}, 1, 8) : output(out, {s.rows, s.n}, 8);
        const bool with_bias = !accumulate;
        run([&](Backend& b, auto t) {
          b.linear_forward(t(y), t(x), t(w), with_bias ? t(bias) : Tensor(), accumulate);
        });
        // Tensor cores cut their sums off where they align terms, rather than round them. A product
        // that is added to bf16 values has been rounded to bf16 itself.
        const double product = accumulate && out == DType::kBF16 ? 1.0 / 512 : 0;
        expect_close(y, 2 * sum_error(s.k) + product,
                     fmt::format("{} x {} x {}{}{}", s.rows, s.n, s.k,
                                 accumulate ? " +=" : " + bias", wide ? ", f32" : ""));
      }
    }
  }
}

// Up to eight rows have kernels of their own: one for weights that lie one behind the other in rows
// of up to 2,048, one for others. The reference multiplies once for all numbers of rows.
TEST_P(CudaRows, LinearOfFewRows) {
  constexpr int64_t kMost = 9;
  struct Case {
    int64_t n, k, gap;
  };
  // Of the largest, blocks have several tiles and warps several pieces, one of which ends early.
  for (const auto& [n, k, gap] : {Case{1, 8, 16},
                                  {5, 264, 16},
                                  {960, 576, 16},
                                  {8195, 72, 16},
                                  {2136, 2088, 16},
                                  {1, 8, 0},
                                  {5, 264, 0},
                                  {8195, 72, 0},
                                  {20011, 104, 0},
                                  {2136, 2048, 0},
                                  {37, 2056, 0}}) {
    Operand& x = input({kMost, k}, 1, 8);
    Operand& w = input({n, k}, 1, gap);
    Operand& bias = input({n});
    Operand& product = output(DType::kF32, {kMost, n});
    reference().linear_forward(product.reference(), x.reference(), w.reference(), Tensor(), false);
    for (int64_t rows = 1; rows <= kMost; ++rows) {
      for (const bool accumulate : {false, true}) {
        const bool wide = rows % 2 == 0;
        const DType out = wide ? DType::kF32 : dtype();
        Operand& y = accumulate ? input(out, {rows, n}, 1, 8) : output(out, {rows, n}, 8);
        cuda().linear_forward(on_device(y.tested()), on_device(x.tested()).slice(0, 0, rows),
                              on_device(w.tested()),
                              accumulate ? Tensor() : on_device(bias.tested()), accumulate);
        download();
        double* exact = y.reference().data<double>();
        for (int64_t i = 0; i < rows * n; ++i) {
          exact[i] = product.exact(i / n, i % n) + (accumulate ? exact[i] : bias.exact(0, i % n));
        }
        const double rounded = accumulate && out == DType::kBF16 ? 1.0 / 512 : 0;  // as above
        expect_close(y, 2 * sum_error(k) + rounded,
                     fmt::format("{} x {} x {}, gaps {}{}", rows, n, k, gap,
                                 accumulate ? " +=" : " + bias"));
      }
    }
  }
}

// A batch's rows are what each would be alone.
TEST_P(CudaRows, FewRowsDoNotDependOnEachOther) {
  if (dtype() != DType::kBF16) return;
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{8200, 1000}, {2200, 4104}}) {
    Operand &x = input({8, k}), &w = input({n, k}), &y = output(DType::kF32, {8, n});
    cuda().linear_forward(on_device(y.tested()), on_device(x.tested()), on_device(w.tested()),
                          Tensor(), false);
    download();
    for (int64_t row = 0; row < 8; row += 3) {
      Operand& alone = output(DType::kF32, {1, n});
      cuda().linear_forward(on_device(alone.tested()), on_device(x.tested()).slice(0, row, 1),
                            on_device(w.tested()), Tensor(), false);
      download();
      for (int64_t i = 0; i < n; ++i) {
        ASSERT_EQ(alone.actual(0, i), y.actual(row, i)) << k << ": " << row << " " << i;
      }
    }
  }
}

// Large products run on kernels that are chosen by rule: the same sums as those of smaller ones
// that give parts of the result, but for the order within them. Sizes fill 132 processors with
// whole waves of the tiles of each rule but the second for many columns.
TEST_P(CudaRows, LargeProductsAreThoseOfTheirParts) {
  if (dtype() != DType::kBF16) return;
  constexpr int64_t kDepth = 2048, kPart = 1056;
  struct Case {
    int64_t m, n;
    bool y, dx, dw;
  };
  Backend& b = cuda();
  const Tensor xs = on_device(input({5280, kDepth}).tested());
  const Tensor ws = on_device(input({11088, kDepth}).tested());
  const Tensor dys = on_device(input({5280 * 2048}).tested());
  // Calls product(result, first, count) for the whole result and for its parts.
  const auto compare = [&](int64_t rows, int64_t columns, int64_t length, const auto& product) {
    const auto size = static_cast<size_t>(rows * columns);
    std::vector<float> whole(size, 0), parts(size, 0);
    DeviceMirror on_whole(b, Tensor(whole.data(), DType::kF32, {rows, columns}));
    DeviceMirror on_parts(b, Tensor(parts.data(), DType::kF32, {rows, columns}));
    product(on_whole.tensor(), 0, length);
    for (int64_t at = 0; at < length; at += kPart) {
      product(on_parts.tensor(), at, std::min(kPart, length - at));
    }
    on_whole.download();
    on_parts.download();
    // Sums of 2,048 to 11,088 products of numbers up to 1 are off by thousandths at most in f32;
    // any other element is off by tens.
    for (size_t i = 0; i < size; ++i) {
      if (!(std::abs(whole[i] - parts[i]) <= 1e-2F)) {
        const auto at = static_cast<int64_t>(i);
        FAIL() << rows << " x " << columns << ": " << whole[i] << " and " << parts[i] << " at "
               << at / columns << " " << at % columns;
      }
    }
  };
  for (const Case& c : {Case{5280, 2048, true, true, false},
                        {4224, 2048, false, true, false},
                        {2048, 4224, true, false, true},
                        {2048, 11088, true, false, false}}) {
    const Tensor x = xs.slice(0, 0, c.m), w = ws.slice(0, 0, c.n);
    if (c.y) {
      compare(c.m, c.n, c.n, [&](const Tensor& y, int64_t at, int64_t count) {
        b.linear_forward(y.slice(1, at, count), x, w.slice(0, at, count), Tensor(), false);
      });
    }
    if (!c.dx && !c.dw) continue;
    const Tensor dy = dys.slice(0, 0, c.m * c.n).reshape({c.m, c.n});
    if (c.dx) {
      compare(c.m, kDepth, c.m, [&](const Tensor& dx, int64_t at, int64_t count) {
        b.linear_backward_input(dx.slice(0, at, count), dy.slice(0, at, count), w, true);
      });
    }
    if (c.dw) {
      compare(c.n, kDepth, c.n, [&](const Tensor& dw, int64_t at, int64_t count) {
        b.linear_backward_weight(dw.slice(0, at, count), dy.slice(1, at, count), x);
      });
    }
  }
}

TEST_P(CudaRows, LinearOntoOtherMemory) {
  for (const Shape& s : kShapes) {
    for (const bool with_bias : {false, true}) {
      Operand& x = input({s.rows, s.k}, 1, 8);
      Operand& w = input({s.n, s.k});
      Operand& bias = input({s.n});
      Operand& base = input({s.rows, s.n}, 1, 8);
      Operand& y = output({s.rows, s.n}, 8);
      Operand& y_elsewhere = output({s.rows, s.n}, 16);  // strides differ: the base is copied
      run([&](Backend& b, auto t) {
        b.linear_forward_onto(t(y), t(base), t(x), t(w), with_bias ? t(bias) : Tensor());
        b.linear_forward_onto(t(y_elsewhere), t(base), t(x), t(w), Tensor());
      });
      // As in LinearForward; a bias is rounded once more.
      const double rounded = dtype() == DType::kBF16 ? (with_bias ? 2 : 1) / 512.0 : 0;
      expect_close(y, 2 * sum_error(s.k) + rounded, "onto a base");
      expect_close(y_elsewhere, 2 * sum_error(s.k) + rounded, "onto a base of other strides");
    }
  }
}

// Rows that begin anywhere: no alignment is assumed.
TEST_P(CudaRows, LinearUnaligned) {
  Operand& x = input({33, 31}, 1, 2);
  Operand& w = input({17, 31}, 1, 4);
  Operand& y = output({33, 17}, 1);
  run([&](Backend& b, auto t) { b.linear_forward(t(y), t(x), t(w), Tensor(), false); });
  expect_close(y, sum_error(31), "31 columns");
}

TEST_P(CudaRows, LinearBackward) {
  for (const Shape& s : kShapes) {
    Operand& dy = input({s.rows, s.n});
    Operand& x = input({s.rows, s.k});
    Operand& w = input({s.n, s.k});
    Operand& dx = output({s.rows, s.k});
    Operand& dx_sum = input(DType::kF32, {s.rows, s.k});
    Operand& dw = input(DType::kF32, {s.n, s.k});
    Operand& dbias = input(DType::kF32, {s.n});
    run([&](Backend& b, auto t) {
      b.linear_backward_input(t(dx), t(dy), t(w), false);
      b.linear_backward_input(t(dx_sum), t(dy), t(w), true);
      b.linear_backward_weight(t(dw), t(dy), t(x));
      b.linear_backward_bias(t(dbias), t(dy));
    });
    expect_close(dx, sum_error(s.n), "dx");
    expect_close(dx_sum, sum_error(s.n), "dx +=");
    expect_close(dw, sum_error(s.rows), "dw");
    expect_close(dbias, sum_error(s.rows), "dbias");
  }
}

TEST_P(CudaRows, Norms) {
  for (const NormKind kind : {NormKind::kRms, NormKind::kLayer}) {
    // In bf16, rows of whole 16 bytes have kernels of their own: over a warp, over a block.
    std::vector<std::vector<int64_t>> shapes = {{37, 576},  {5, 3, 64},  {1, 40},
                                                {300, 130}, {700, 2048}, {9, 4096},
                                                {3, 8184},  {2, 9000},   {4099, 40}};
    if (dtype() == DType::kBF16)
      shapes.push_back({4097, 1032});  // from 4,096 rows on, several a block
    for (const auto& shape : shapes) {
      const int64_t d = shape.back();
      int64_t rows = 1;
      for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
      Operand& x = input(shape, 2);
      Operand& weight = input({d});
      Operand& bias = input({d});
      Operand& out = output(shape);
      Operand& stats = output(DType::kF32, {rows, 2});
      Operand& dy = input(shape);
      Operand& dx = input(shape);
      Operand& dx_only = output(shape);
      Operand& dweight = input(DType::kF32, {d});
      Operand& dbias = input(DType::kF32, {d});
      run([&](Backend& b, auto t) {
        b.norm_forward(kind, t(out), t(stats), t(x), t(weight), t(bias), 1e-5);
        b.norm_backward(kind, t(dx), true, t(dweight), t(dbias), t(dy), t(x), t(stats), t(weight));
        b.norm_backward(kind, t(dx_only), false, Tensor(), Tensor(), t(dy), t(x), t(stats),
                        t(weight));
      });
      expect_close(out, sum_error(d), "norm");
      expect_close(stats, sum_error(d), "stats");
      expect_close(dx, 4 * sum_error(d), "dx +=");
      expect_close(dx_only, 4 * sum_error(d), "dx");
      expect_close(dweight, 4 * sum_error(rows), "dweight");
      expect_close(dbias, sum_error(rows), "dbias");
    }
  }
}

TEST_P(CudaRows, Embedding) {
  constexpr int64_t kVocab = 50, kRows = 333, kWidth = 1100;
  std::vector<int32_t> values;
  for (int64_t i = 0; i < kRows; ++i) values.push_back(static_cast<int32_t>(i * i % kVocab));
  const Tensor id = ids(values);
  Operand& table = input({kVocab, kWidth});
  Operand& out = output({kRows, kWidth});
  Operand& more = input({kRows, kWidth});
  Operand& dout = input({kRows, kWidth});
  Operand& dtable = input(DType::kF32, {kVocab, kWidth});
  run([&](Backend& b, auto t) {
    b.embedding_forward(t(out), t(table), ids_for(b, id), false);
    b.embedding_forward(t(more), t(table), ids_for(b, id), true);
    b.embedding_backward(t(dtable), t(dout), ids_for(b, id));
  });
  expect_close(out, 0, "rows");
  expect_close(more, 1e-7, "rows added");
  expect_close(dtable, sum_error(kRows), "dtable");
}

// Lists of any length, some longer than what a block puts in order at once, add up in the order of
// the tokens: exactly what a loop over them gives.
TEST_P(CudaRows, EmbeddingGradientKeepsTheOrderOfTokens) {
  constexpr int64_t kVocab = 40, kRows = 5000, kWidth = 1030;
  std::vector<int32_t> values;
  for (int64_t i = 0; i < kRows; ++i) {
    const auto id = static_cast<int32_t>((i * 2654435761u >> 8) % kVocab);
    values.push_back(id < 20 ? 7 : id == 21 || id == 22 ? 23 : id);
  }
  const Tensor id = ids(values);
  Operand& dout = input({kRows, kWidth});
  Operand& dtable = input(DType::kF32, {kVocab, kWidth});
  std::vector<float> sums(kVocab * kWidth, 0);
  for (int64_t t = 0; t < kRows; ++t) {
    for (int64_t c = 0; c < kWidth; ++c) {
      sums[static_cast<size_t>(values[static_cast<size_t>(t)] * kWidth + c)] +=
          static_cast<float>(dout.actual(t, c));
    }
  }
  for (int64_t v = 0; v < kVocab; ++v) {
    for (int64_t c = 0; c < kWidth; ++c) {
      float& sum = sums[static_cast<size_t>(v * kWidth + c)];
      sum = static_cast<float>(dtable.actual(v, c)) + sum;
    }
  }
  run([&](Backend& b, auto t) { b.embedding_backward(t(dtable), t(dout), ids_for(b, id)); });
  for (int64_t v = 0; v < kVocab; ++v) {
    for (int64_t c = 0; c < kWidth; ++c) {
      ASSERT_EQ(static_cast<float>(dtable.actual(v, c)), sums[static_cast<size_t>(v * kWidth + c)])
          << v << " " << c;
    }
  }
}

TEST_P(CudaRows, BadIdIsReported) {
  const Tensor id = ids({1, 7, 2});
  Operand& table = input({5, 8});
  Operand& out = output({3, 8});
  Tensor device_out = on_device(out.tested());
  cuda().embedding_forward(device_out, on_device(table.tested()), on_device(id), false);
  std::vector<float> host(24);
  const Tensor to(host.data(), DType::kF32, {3, 8});
  EXPECT_THROW(cuda().copy(to, device_out), Error);
  cuda().copy(to, device_out);  // reported once
}

TEST_P(CudaRows, Rope) {
  constexpr int64_t kRows = 70, kHeads = 3, kDim = 64;
  for (const int64_t half : {32, 8}) {
    std::vector<int32_t> values;
    for (int64_t i = 0; i < kRows; ++i) values.push_back(static_cast<int32_t>((i * 37) % 100));
    const Tensor positions = ids(values);
    std::vector<float> angles;
    for (int64_t p = 0; p < 100; ++p) {
      for (int64_t c = 0; c < half; ++c) angles.push_back(std::cos(0.1f * float(p * (c + 1))));
      for (int64_t c = 0; c < half; ++c) angles.push_back(std::sin(0.1f * float(p * (c + 1))));
    }
    const Tensor table(angles.data(), DType::kF32, {100, 2 * half});
    Operand& x = input({kRows, kHeads, kDim});
    Operand& y = input({kRows, kHeads, kDim});
    run([&](Backend& b, auto t) {
      b.rope(t(x), ids_for(b, table), ids_for(b, positions), false);
      b.rope(t(y), ids_for(b, table), ids_for(b, positions), true);
    });
    expect_close(x, 2e-7, "rotated");
    expect_close(y, 2e-7, "rotated back");
  }
}

TEST_P(CudaRows, Activations) {
  // In bf16: rows with gaps between them, or not of whole 16 bytes; and rows without, which are
  // dealt out as one long row where that comes out even.
  struct Case {
    bool gated;
    int64_t rows, n, gap;
  };
  for (const Activation act :
       {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh, Activation::kRelu}) {
    for (const Case& c : {Case{true, 33, 200, 8},
                          {false, 33, 200, 8},
                          {true, 33, 203, 8},
                          {true, 33, 6152, 8},
                          {true, 96, 640, 0},
                          {false, 128, 96, 0},
                          {true, 67, 104, 0}}) {
      const std::initializer_list<int64_t> shape = {c.rows, c.n};
      Operand& gate = input(shape, 6, c.gap);
      Operand& up = input(shape, 1, 2 * c.gap);
      Operand& out = output(shape);
      Operand& out_too = output(shape);
      Operand& dout = input(shape);
      Operand& dgate = output(shape);
      Operand& dup = output(shape);
      Operand& gate_in_place = input(shape, 6, c.gap);
      Operand& up_in_place = input(shape, 1, c.gap);
      run([&](Backend& b, auto t) {
        const auto maybe = [&](Operand& x) { return c.gated ? t(x) : Tensor(); };
        b.activation_forward(act, t(out), t(gate), maybe(up));
        b.activation_backward(act, t(dgate), maybe(dup), t(dout), t(gate), maybe(up));
        b.activation_both(act, t(out_too), t(gate_in_place), maybe(up_in_place), t(dout),
                          t(gate_in_place), maybe(up_in_place));
      });
      expect_close(out, kPointwise, "forward");
      expect_close(dgate, kPointwise, "dgate");
      expect_close(out_too, kPointwise, "forward with backward");
      expect_close(gate_in_place, kPointwise, "dgate in place");
      if (!c.gated) continue;
      expect_close(dup, kPointwise, "dup");
      expect_close(up_in_place, kPointwise, "dup in place");
    }
  }
}

TEST_P(CudaRows, AddAndZero) {
  Operand& a = input({9, 100}, 1, 4);
  Operand& b_in = input({9, 100});
  Operand& out = output({9, 100}, 2);
  Operand& cleared = output({9, 100}, 3);
  run([&](Backend& b, auto t) {
    b.add(t(out), t(a), t(b_in));
    b.zero(t(cleared));
  });
  expect_close(out, 1e-7, "sum");
  expect_close(cleared, 0, "zeros");
}

// Rows in pieces of four, of which a block holds up to 32K; longer ones; rows of no such pieces.
TEST_P(CudaRows, CrossEntropy) {
  constexpr int64_t kRows = 21;
  for (const int64_t vocabulary : {5000, 40000, 4999}) {
    std::vector<int32_t> values;
    for (int64_t i = 0; i < kRows; ++i) {
      values.push_back(i % 5 == 4 ? -1 : static_cast<int32_t>(i * i * 97 % vocabulary));
    }
    const Tensor labels = ids(values);
    Operand& logits = input(DType::kF32, {kRows, vocabulary}, 8);
    Operand& losses = output(DType::kF32, {kRows});
    Operand& dlogits = output({kRows, vocabulary});
    Operand& losses_alone = output(DType::kF32, {kRows});
    run([&](Backend& b, auto t) {
      b.softmax_cross_entropy(t(losses), t(dlogits), t(logits), ids_for(b, labels), 0.25);
      b.softmax_cross_entropy(t(losses_alone), Tensor(), t(logits), ids_for(b, labels), 0.25);
    });
    expect_close(losses, 1e-6, "losses");
    expect_close(losses_alone, 1e-6, "losses alone");
    expect_close(dlogits, 1e-5, "dlogits");
  }
}

TEST_P(CudaRows, Optimizer) {
  constexpr int64_t kCount = 5000;
  Operand& master = input(DType::kF32, {kCount});
  Operand& weights = output({kCount});
  Operand& m = input(DType::kF32, {kCount}, 0.01);
  Operand& v = input(DType::kF32, {kCount});
  v.fill([](int64_t, int64_t i) { return 1e-4 * static_cast<double>(1 + i % 7); });
  Operand& gradient = input(DType::kF32, {kCount}, 0.1);
  const AdamW args{.lr = 1e-3, .weight_decay = 0.1, .step = 3, .gradient_scale = 0.5};
  run([&](Backend& b, auto t) {
    b.adamw_step(t(weights), t(master), t(m), t(v), t(gradient), args);
  });
  expect_close(master, 1e-6, "master");
  expect_close(weights, 1e-6, "weights");
  expect_close(m, 1e-6, "m");
  expect_close(v, 1e-6, "v");
}

TEST_P(CudaRows, SumOfSquares) {
  Operand& x = input({77, 1000});
  double sums[2] = {};
  int i = 0;
  run([&](Backend& b, auto t) { sums[i++] = b.sum_of_squares(t(x)); });
  EXPECT_NEAR(sums[1], sums[0], 1e-9 * sums[0]);
}

// Every pair of types, host and device, rounded as the reference rounds.
TEST_P(CudaRows, CopyConverts) {
  std::vector<double> values;
  for (int i = 0; i < 3000; ++i) values.push_back(std::sin(i * 1.7) * std::pow(10.0, i % 9 - 4));
  const auto type = dtype();
  const Tensor host(values.data(), DType::kF64, {30, 100});
  void* data = cuda().memory().allocate(3000 * 8);
  const Tensor device(data, type, {30, 100}, Device::kCuda);
  cuda().copy(device, host);
  std::vector<double> back(3000);
  cuda().copy(Tensor(back.data(), DType::kF64, {30, 100}), device);
  for (size_t i = 0; i < values.size(); ++i) {
    std::vector<float> narrow(1);
    std::vector<bf16> narrower(1);
    const Tensor one(&values[i], DType::kF64, {1});
    double want = 0;
    if (type == DType::kF32) {
      reference().copy(Tensor(narrow.data(), type, {1}), one);
      want = static_cast<double>(narrow[0]);
    } else {
      reference().copy(Tensor(narrower.data(), type, {1}), one);
      want = static_cast<double>(narrower[0]);
    }
    ASSERT_EQ(back[i], want) << values[i];
  }
  cuda().memory().deallocate(data, 3000 * 8);
}

}  // namespace
}  // namespace longgen::testing
