#include "longgen/backend/cpu/gemm.h"

#include <algorithm>
#include <cstring>

#include "longgen/backend/cpu/row_dispatch.h"
#include "longgen/base/checked.h"
#include "longgen/base/error.h"

namespace longgen {
namespace {

constexpr int64_t kRowBlock = 128;     // rows of C that a thread works on at a time
constexpr int64_t kColumnBlock = 256;  // columns
constexpr int64_t kWholeDepth = 6144;  // beyond it k is cut into passes of ...
constexpr int64_t kPassDepth = 4096;
constexpr int64_t kPackedABytes = int64_t{16} << 20;
constexpr int64_t kSumsBytes = int64_t{32} << 20;
constexpr double kInlineWork = 1 << 18;  // multiply-adds that are done before a thread would wake

const GemmKernels& f32_kernels(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kPortable:
      return kGemmF32Portable;
    case CpuIsa::kAvx2:
      return kGemmF32Avx2;
    default:
      return kGemmF32Avx512;
  }
}

const GemmKernels& bf16_kernels(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kPortable:
      return kGemmBf16Portable;
    case CpuIsa::kAvx2:
      return kGemmBf16Avx2;
    case CpuIsa::kAvx512:
      return kGemmBf16Avx512;
    default:  // tiles are gemm_tiles.h
      return kGemmBf16Avx512Bf16;
  }
}

// The same source from vector `i` and depth `k` on.
PackSource advance(const PackSource& source, DType dtype, int64_t i, int64_t k) {
  const int64_t offset = source.k_contiguous ? i * source.stride + k : k * source.stride + i;
  return {static_cast<const std::byte*>(source.data) + offset * dtype_size(dtype), source.stride,
          source.k_contiguous};
}

// `total` cut into the fewest equal parts of at most `limit`, each a multiple of `unit`.
int64_t even_part(int64_t total, int64_t limit, int64_t unit) {
  const int64_t parts = std::max<int64_t>(1, ceil_div(total, limit));
  return round_up(std::max<int64_t>(1, ceil_div(total, parts)), unit);
}

}  // namespace

// One pass: rows [row0, row0 + rows) of C over depth [k0, k0 + depth).
struct Gemm::Plan {
  const GemmArgs& args;
  const GemmKernels& kernels;
  const float* bias;
  int64_t mr = 0;  // rows of a panel of A
  int64_t row0 = 0, rows = 0, row_panels = 0;
  int64_t k0 = 0, depth = 0, packed_depth = 0;
  int64_t kc = 0;                // depth of a panel, but the last
  int64_t column_panels = 0;     // of C, nr columns each
  int64_t block_row_panels = 0;  // panels that a thread works on at a time
  int64_t block_column_panels = 0;
  int64_t column_blocks = 0, row_splits = 0;  // work items: a column block x a part of the rows
  bool first = true, last = true;             // pass over k
  float* sums = nullptr;  // [rows, column_panels * nr] when there are several passes
  void* packed_a = nullptr;

  int64_t sums_stride() const { return column_panels * kernels.nr; }
  int64_t depth_at(int64_t k) const { return std::min(kc, packed_depth - k); }
  // Panels of a depth block follow each other; depth blocks follow each other.
  static void* at(void* packed, const GemmKernels& kernels, int64_t elements) {
    return static_cast<std::byte*>(packed) + elements * kernels.element_bytes;
  }
};

Gemm::Gemm(CpuContext context)
    : context_(context), f32_(f32_kernels(context.isa)), bf16_(bf16_kernels(context.isa)) {
  for (int i = 0; i < context.pool.size(); ++i) threads_.push_back(std::make_unique<ThreadState>());
  if (context.isa == CpuIsa::kAmx) tiles_ = std::make_unique<TileGemm>(context);
}

void Gemm::run(const GemmArgs& args) {
  if (args.m == 0 || args.n == 0) return;
  require(args.k > 0, "cpu backend: a product over no columns");
  const float* bias = static_cast<const float*>(args.bias);
  if (bias && args.dtype == DType::kBF16) {
    float* wide = bias_.get_array<float>(args.n);
    row_kernels<uint16_t>(context_.isa)
        .to_float(wide, static_cast<const uint16_t*>(args.bias), args.n);
    bias = wide;
  }
  const bool in_place = args.m <= kFewRows && args.a.k_contiguous && args.b.k_contiguous;
  if (in_place) {
    run_few(args, bias);
  } else if (tiles_ && args.dtype == DType::kBF16) {
    tiles_->run(args, bias);
  } else {
    run_packed(args, bias);
  }
}

void Gemm::run_few(const GemmArgs& args, const float* bias) {
  constexpr int64_t kColumns = 64;
  const GemmKernels& kernels = args.dtype == DType::kBF16 ? bf16_ : f32_;
  const Plan plan{.args = args, .kernels = kernels, .bias = bias};
  const auto columns = [&](int64_t begin, int64_t end, int) {
    alignas(64) float c[kFewRows * kColumns];
    for (int64_t j = begin; j < end; ++j) {
      const int64_t first = j * kColumns, count = std::min(kColumns, args.n - first);
      const PackSource w = advance(args.b, args.dtype, first, 0);
      kernels.multiply_few(args.a.data, args.a.stride, args.m, w.data, w.stride, count, args.k, c,
                           kColumns);
      finish_rows(plan, 0, args.m, first, count, c, kColumns);
    }
  };
  const int64_t blocks = ceil_div(args.n, kColumns);
  const double work = static_cast<double>(args.m) * static_cast<double>(args.n * args.k);
  if (work < kInlineWork) {
    columns(0, blocks, 0);
  } else {
    context_.pool.for_ranges(blocks, columns);
  }
}

void Gemm::run_packed(const GemmArgs& args, const float* bias) {
  const GemmKernels& kernels = args.dtype == DType::kBF16 ? bf16_ : f32_;
  Plan plan{.args = args, .kernels = kernels, .bias = bias};
  const int64_t pass_depth = args.k <= kWholeDepth ? std::max<int64_t>(args.k, 1)
                                                   : even_part(args.k, kPassDepth, kernels.k_unit);
  plan.column_panels = ceil_div<int64_t>(args.n, kernels.nr);
  // Rows whose packed values and sums stay within their bounds.
  int64_t max_rows = kPackedABytes / (pass_depth * kernels.element_bytes);
  if (pass_depth < args.k) max_rows = std::min(max_rows, kSumsBytes / (plan.sums_stride() * 4));
  const int64_t pass_rows = even_part(args.m, std::max<int64_t>(max_rows, kRowBlock), 1);
  for (plan.row0 = 0; plan.row0 < args.m; plan.row0 += pass_rows) {
    plan.rows = std::min(pass_rows, args.m - plan.row0);
    plan.mr = even_part(plan.rows, kernels.max_mr, kernels.mr_unit);
    plan.row_panels = ceil_div(plan.rows, plan.mr);
    plan.block_row_panels = std::max<int64_t>(1, kRowBlock / plan.mr);
    // Blocks narrow enough that every thread has several; rows are cut only when columns run out.
    const int64_t threads = context_.pool.size();
    plan.block_column_panels =
        std::clamp<int64_t>(plan.column_panels / (3 * threads), 1, kColumnBlock / kernels.nr);
    plan.column_blocks = ceil_div(plan.column_panels, plan.block_column_panels);
    plan.row_splits = std::clamp<int64_t>(2 * threads / plan.column_blocks, 1,
                                          ceil_div(plan.row_panels, plan.block_row_panels));
    if (pass_depth < args.k) {
      plan.sums = sums_.get_array<float>(plan.row_panels * plan.mr * plan.sums_stride());
    }
    for (plan.k0 = 0; plan.k0 == 0 || plan.k0 < args.k; plan.k0 += pass_depth) {
      plan.depth = std::min(pass_depth, args.k - plan.k0);
      plan.packed_depth = round_up<int64_t>(plan.depth, kernels.k_unit);
      plan.kc = even_part(plan.packed_depth, kernels.max_kc, kernels.k_unit);
      plan.first = plan.k0 == 0;
      plan.last = plan.k0 + pass_depth >= args.k;
      pack_a(plan);
      for (const auto& thread : threads_) thread->packed_block = -1;
      const int64_t items = plan.column_blocks * plan.row_splits;
      const double work = static_cast<double>(plan.rows) * static_cast<double>(args.n * plan.depth);
      if (work < kInlineWork) {
        for (int64_t item = 0; item < items; ++item) run_block(plan, item, 0);
      } else {
        context_.pool.for_each(items,
                               [&](int64_t item, int thread) { run_block(plan, item, thread); });
      }
    }
  }
}

void Gemm::pack_a(Plan& plan) {
  const GemmKernels& kernels = plan.kernels;
  const int64_t packed_rows = plan.row_panels * plan.mr;
  plan.packed_a = a_.get(packed_rows * plan.packed_depth * kernels.element_bytes);
  const auto panels = [&](int64_t begin, int64_t end, int) {
    for (int64_t k = 0; k < plan.packed_depth; k += plan.kc) {
      const int64_t depth = plan.depth_at(k);
      for (int64_t panel = begin; panel < end; ++panel) {
        const int64_t row = panel * plan.mr;
        kernels.pack_a(Plan::at(plan.packed_a, kernels, k * packed_rows + row * depth),
                       advance(plan.args.a, plan.args.dtype, plan.row0 + row, plan.k0 + k),
                       std::min(plan.mr, plan.rows - row), plan.mr,
                       std::min(depth, plan.depth - k));
      }
    }
  };
  if (static_cast<double>(packed_rows * plan.packed_depth) < kInlineWork / 8) {
    panels(0, plan.row_panels, 0);
  } else {
    context_.pool.for_ranges(plan.row_panels, panels);
  }
}

// Packs the item's columns of B, unless this thread just did, and multiplies its rows with them.
void Gemm::run_block(const Plan& plan, int64_t item, int thread) {
  const GemmKernels& kernels = plan.kernels;
  ThreadState& state = *threads_[static_cast<size_t>(thread)];
  const int64_t block = item / plan.row_splits, split = item % plan.row_splits;
  const int64_t column_panel = block * plan.block_column_panels;
  const int64_t panels = std::min(plan.block_column_panels, plan.column_panels - column_panel);
  const int64_t columns = panels * kernels.nr;
  void* b = state.b.get(columns * plan.packed_depth * kernels.element_bytes);
  if (state.packed_block != block) {
    for (int64_t k = 0; k < plan.packed_depth; k += plan.kc) {
      const int64_t depth = plan.depth_at(k);
      for (int64_t j = 0; j < panels; ++j) {
        const int64_t column = (column_panel + j) * kernels.nr;
        kernels.pack_b(Plan::at(b, kernels, k * columns + j * kernels.nr * depth),
                       advance(plan.args.b, plan.args.dtype, column, plan.k0 + k),
                       std::min<int64_t>(kernels.nr, plan.args.n - column), kernels.nr,
                       std::min(depth, plan.depth - k));
      }
    }
    state.packed_block = block;
  }
  float* tile = state.c.get_array<float>(plan.block_row_panels * plan.mr * columns);
  if (kernels.enter) kernels.enter();
  const int64_t end = plan.row_panels * (split + 1) / plan.row_splits;
  for (int64_t panel = plan.row_panels * split / plan.row_splits; panel < end;
       panel += plan.block_row_panels) {
    const int64_t row_panels = std::min(plan.block_row_panels, end - panel);
    const int64_t row = panel * plan.mr, column = column_panel * kernels.nr;
    float* c = plan.sums ? plan.sums + row * plan.sums_stride() + column : tile;
    const int64_t ldc = plan.sums ? plan.sums_stride() : columns;
    multiply_block(plan, panel, row_panels, panels, b, c, ldc);
    if (plan.last) {
      finish_rows(plan, plan.row0 + row, std::min(row_panels * plan.mr, plan.rows - row), column,
                  std::min(columns, plan.args.n - column), c, ldc);
    }
  }
  if (kernels.leave) kernels.leave();
}

void Gemm::multiply_block(const Plan& plan, int64_t row_panel, int64_t row_panels,
                          int64_t column_panels, const void* b, float* c, int64_t ldc) {
  const GemmKernels& kernels = plan.kernels;
  const int64_t packed_rows = plan.row_panels * plan.mr, columns = column_panels * kernels.nr;
  for (int64_t k = 0; k < plan.packed_depth; k += plan.kc) {
    const int64_t depth = plan.depth_at(k);
    for (int64_t j = 0; j < column_panels; ++j) {
      for (int64_t i = 0; i < row_panels; ++i) {
        kernels.multiply(
            static_cast<int>(plan.mr), depth,
            Plan::at(plan.packed_a, kernels, k * packed_rows + (row_panel + i) * plan.mr * depth),
            Plan::at(const_cast<void*>(b), kernels, k * columns + j * kernels.nr * depth),
            c + i * plan.mr * ldc + j * kernels.nr, ldc, k > 0 || !plan.first);
      }
    }
  }
}

void Gemm::finish_rows(const Plan& plan, int64_t row, int64_t rows, int64_t column, int64_t columns,
                       const float* c, int64_t ldc) {
  const GemmArgs& args = plan.args;
  const float* bias = plan.bias ? plan.bias + column : nullptr;
  by_dtype(args.c_dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto finish = row_kernels<T>(context_.isa).finish_product;
    T* out = static_cast<T*>(args.c) + row * args.c_stride + column;
    const T* base = static_cast<const T*>(args.base);
    if (base) base += row * args.base_stride + column;
    for (int64_t i = 0; i < rows; ++i) {
      finish(out + i * args.c_stride, c + i * ldc, bias,
             base ? base + i * args.base_stride : nullptr, columns);
    }
  });
}

}  // namespace longgen
