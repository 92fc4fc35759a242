#include "longgen/backend/cpu/quantized_linear.h"

#include <algorithm>
#include <cstring>

#include "longgen/backend/cpu/checks.h"
#include "longgen/backend/cpu/cpu_features.h"
#include "longgen/backend/cpu/row_dispatch.h"
#include "longgen/backend/cpu/rows.h"
#include "longgen/backend/quantized.h"
#include "longgen/base/checked.h"
#include "longgen/base/error.h"

namespace longgen {
namespace {

using cpu::Rows;
using quantized::kBlock;
using quantized::kPanelRows;

constexpr double kInlineWork = 1 << 16;    // multiply-adds that are done before a thread would wake
constexpr int64_t kFewRows = 8;            // up to so many, a panel is read once
constexpr int64_t kByteRows = 64;          // rows of x a step, else
constexpr int64_t kTilePanels = 4;         // panels widened together, at most
constexpr int64_t kTileBytes = 512 << 10;  // of tiles that are widened together
constexpr int64_t kTileStep = 32;          // rows of x a step

void check_weight(std::string_view op, const WeightView& w) {
  cpu::check(op, "the weight", w.data, DType::kU8,
             {quantized::weight_bytes(w.scheme, w.n(), w.k())});
}

}  // namespace

const QuantizedKernels& quantized_kernels(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kPortable:
      return kQuantizedPortable;
    case CpuIsa::kAvx2:
      return cpu_has_avx_vnni() ? kQuantizedAvxVnni : kQuantizedAvx2;
    default:
      return cpu_has_avx512_vnni() ? kQuantizedAvx512Vnni : kQuantizedAvx2;
  }
}

struct QuantizedLinear::Product {
  const Tensor& y;
  const Tensor& x;
  const WeightView& w;
  const float* bias;
  bool accumulate;
  int64_t m, n, blocks, panels, panel_bytes;
  int8_t* codes = nullptr;  // [m, 32 * blocks]
  ActivationBlock* info = nullptr;

  const uint8_t* panel(int64_t i) const {
    return static_cast<const uint8_t*>(w.data.raw()) + i * panel_bytes;
  }
  double work() const {
    return static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(blocks * kBlock);
  }
};

QuantizedLinear::QuantizedLinear(CpuContext context)
    : context_(context), kernels_(quantized_kernels(context.isa)) {
  for (int i = 0; i < context.pool.size(); ++i) threads_.push_back(std::make_unique<ThreadState>());
}

void QuantizedLinear::linear_forward(const Tensor& y, const Tensor& x, const WeightView& w,
                                     const Tensor& bias, bool accumulate) {
  constexpr std::string_view kOp = "linear_forward";
  cpu::check_activation(kOp, "x", x);
  cpu::check_rank(kOp, "x", x, 2);
  check_weight(kOp, w);
  const int64_t m = x.dim(0), n = w.n();
  cpu::check(kOp, "x", x, x.dtype(), {m, w.k()});
  cpu::check(kOp, "y", y, y.dtype() == DType::kF32 ? DType::kF32 : x.dtype(), {m, n});
  if (bias.defined()) cpu::check(kOp, "bias", bias, x.dtype(), {n});
  if (m == 0 || n == 0) return;
  const float* wide = nullptr;
  if (bias.defined()) {
    float* values = bias_.get_array<float>(n);
    by_dtype(x.dtype(), [&](auto zero) {
      using T = decltype(zero);
      row_kernels<T>(context_.isa).to_float(values, static_cast<const T*>(bias.raw()), n);
    });
    wide = values;
  }
  const int64_t panels = ceil_div(n, kPanelRows);
  const Product p{.y = y,
                  .x = x,
                  .w = w,
                  .bias = wide,
                  .accumulate = accumulate,
                  .m = m,
                  .n = n,
                  .blocks = w.k() / kBlock,
                  .panels = panels,
                  .panel_bytes = w.data.bytes() / panels,
                  .codes = codes_.get_array<int8_t>(m * w.k()),
                  .info = blocks_.get_array<ActivationBlock>(m * w.k() / kBlock)};
  if (context_.isa == CpuIsa::kAmx && x.dtype() == DType::kBF16 && m >= kTileRows) {
    run_tiles(p);
  } else {
    run_bytes(p);
  }
}

void QuantizedLinear::quantize(const Product& p) {
  const quantized::Layout& l = quantized::layout(p.w.scheme);
  by_dtype(p.x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const Rows x(p.x);
    const auto rows = [&](int64_t begin, int64_t end, int) {
      for (int64_t r = begin; r < end; ++r) {
        int8_t* codes = p.codes + r * p.blocks * kBlock;
        ActivationBlock* info = p.info + r * p.blocks;
        if constexpr (std::is_same_v<T, float>) {
          kernels_.quantize_f32(x.at<T>(r), p.blocks, l.zero, l.groups, codes, info);
        } else {
          kernels_.quantize_bf16(x.at<T>(r), p.blocks, l.zero, l.groups, codes, info);
        }
      }
    };
    p.m <= kFewRows ? rows(0, p.m, 0) : context_.pool.for_ranges(p.m, rows);
  });
}

void QuantizedLinear::run_bytes(const Product& p) {
  quantize(p);
  const auto multiply = kernels_.multiply[static_cast<int>(p.w.scheme)];
  const auto part = [&](int64_t panel, int64_t begin, int64_t end) {
    alignas(64) float c[kByteRows * kPanelRows];
    for (int64_t row = begin; row < end; row += kByteRows) {
      const int64_t rows = std::min(kByteRows, end - row), column = panel * kPanelRows;
      multiply(p.panel(panel), p.blocks, p.codes + row * p.blocks * kBlock, p.info + row * p.blocks,
               rows, c, kPanelRows);
      finish(p, row, rows, column, std::min(kPanelRows, p.n - column), c, kPanelRows);
    }
  };
  if (p.work() < kInlineWork) {
    for (int64_t panel = 0; panel < p.panels; ++panel) part(panel, 0, p.m);
  } else if (p.m <= kFewRows) {
    context_.pool.for_ranges(p.panels, [&](int64_t begin, int64_t end, int) {
      for (int64_t panel = begin; panel < end; ++panel) part(panel, 0, p.m);
    });
  } else {
    constexpr int64_t kRows = 256;  // of x, whose codes stay in the second-level cache
    const int64_t splits = ceil_div(p.m, kRows);
    context_.pool.for_each(p.panels * splits, [&](int64_t item, int) {
      const int64_t begin = item / p.panels * kRows;
      part(item % p.panels, begin, std::min(begin + kRows, p.m));
    });
  }
}

// Work items are groups of panels x parts of the rows; rows are cut only when columns run out.
void QuantizedLinear::run_tiles(const Product& p) {
  const auto dequantize = kQuantizedAmx.dequantize[static_cast<int>(p.w.scheme)];
  const int64_t k = p.blocks * kBlock, threads = context_.pool.size();
  const int64_t most = std::clamp<int64_t>(kTileBytes / (2 * kPanelRows * k), 1, kTilePanels);
  const int64_t group_panels = std::clamp<int64_t>(p.panels / (2 * threads), 1, most);
  const int64_t groups = ceil_div(p.panels, group_panels);
  const int64_t steps = ceil_div(p.m, kTileStep);
  const int64_t splits = std::clamp<int64_t>(ceil_div(2 * threads, groups), 1, steps);
  // The last rows, filled up to whole tiles.
  const int64_t full = p.m / kTileStep * kTileStep;
  const Rows x(p.x);
  uint16_t* tail = tail_.get_array<uint16_t>(kTileStep * k);
  std::memset(tail, 0, static_cast<size_t>(kTileStep * k) * sizeof(uint16_t));
  for (int64_t r = full; r < p.m; ++r) {
    std::memcpy(tail + (r - full) * k, x.at<uint16_t>(r),
                static_cast<size_t>(k) * sizeof(uint16_t));
  }
  context_.pool.for_each(groups * splits, [&](int64_t item, int thread) {
    ThreadState& state = *threads_[static_cast<size_t>(thread)];
    const int64_t first = item / splits * group_panels, split = item % splits;
    const int64_t panels = std::min(group_panels, p.panels - first);
    auto* tiles = state.tiles.get_array<uint16_t>(group_panels * kPanelRows * k);
    for (int64_t i = 0; i < panels; ++i) {
      dequantize(p.panel(first + i), p.blocks, tiles + i * kPanelRows * k);
    }
    const int64_t column = first * kPanelRows, ldc = panels * kPanelRows;
    float* c = state.sums.get_array<float>(kTileStep * kTilePanels * kPanelRows);
    kQuantizedAmx.enter();
    for (int64_t step = steps * split / splits; step < steps * (split + 1) / splits; ++step) {
      const int64_t row = step * kTileStep, rows = std::min(kTileStep, p.m - row);
      const uint16_t* from = row < full ? x.at<uint16_t>(row) : tail;
      kQuantizedAmx.multiply(from, row < full ? p.x.stride(0) : k, round_up<int64_t>(rows, 16),
                             tiles, panels, p.blocks, c, ldc);
      finish(p, row, rows, column, std::min(ldc, p.n - column), c, ldc);
    }
    kQuantizedAmx.leave();
  });
}

void QuantizedLinear::finish(const Product& p, int64_t row, int64_t rows, int64_t column,
                             int64_t columns, const float* c, int64_t ldc) const {
  const float* bias = p.bias ? p.bias + column : nullptr;
  by_dtype(p.y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const auto store = row_kernels<T>(context_.isa).finish_product;
    const Rows y(p.y);
    for (int64_t i = 0; i < rows; ++i) {
      T* to = y.at<T>(row + i) + column;
      store(to, c + i * ldc, bias, p.accumulate ? to : nullptr, columns);
    }
  });
}

void QuantizedLinear::embedding_forward(const Tensor& out, const WeightView& table,
                                        const Tensor& ids, bool accumulate) {
  constexpr std::string_view kOp = "embedding_forward";
  check_weight(kOp, table);
  cpu::check_rank(kOp, "ids", ids, 1);
  const int64_t rows = ids.dim(0), d = table.k();
  cpu::check(kOp, "ids", ids, DType::kI32, {rows});
  cpu::check_activation(kOp, "out", out);
  cpu::check(kOp, "out", out, out.dtype(), {rows, d});
  cpu::check_ids(kOp, ids, table.n());
  const int32_t* id = ids.data<int32_t>();
  by_dtype(out.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const auto& kernels = row_kernels<T>(context_.isa);
    const Rows to(out);
    context_.pool.for_ranges(rows, [&](int64_t begin, int64_t end, int) {
      std::vector<double> exact(static_cast<size_t>(d));
      std::vector<float> values(static_cast<size_t>(d));
      for (int64_t t = begin; t < end; ++t) {
        quantized::dequantize_row(table, id[t], exact.data());
        std::copy(exact.begin(), exact.end(), values.begin());
        T* row = to.at<T>(t);
        kernels.finish_product(row, values.data(), nullptr, accumulate ? row : nullptr, d);
      }
    });
  });
}

}  // namespace longgen
