#include "longgen/backend/cpu/gemm_tiles.h"

#include <algorithm>

#include "longgen/backend/cpu/gemm.h"
#include "longgen/base/checked.h"

namespace longgen {
namespace {

constexpr int64_t kPassDepth = 2304;                 // beyond it k is cut into passes
constexpr int64_t kPanelBytes = int64_t{1} << 20;    // of B that a thread walks down C with
constexpr int64_t kPackedBytes = int64_t{12} << 20;  // of A or B packed at a time
constexpr double kInlineWork = 1 << 18;  // multiply-adds that are done before a thread would wake
constexpr int64_t kStepBytes = kTilePanel * kTileStep * 2;

// `total` cut into the fewest equal parts of at most `limit`, each a multiple of `unit`.
int64_t even_part(int64_t total, int64_t limit, int64_t unit) {
  const int64_t parts = std::max<int64_t>(1, ceil_div(total, limit));
  return round_up(std::max<int64_t>(1, ceil_div(total, parts)), unit);
}

const uint16_t* element(const PackSource& source, int64_t i, int64_t k) {
  const int64_t offset = source.k_contiguous ? i * source.stride + k : k * source.stride + i;
  return static_cast<const uint16_t*>(source.data) + offset;
}

// Rows that lie whole pages apart share the few places of a cache set.
bool rows_collide(int64_t stride_bytes) { return stride_bytes % 1024 == 0; }

int64_t cut(int64_t total, int64_t parts, int64_t part) { return total * part / parts; }

}  // namespace

// Rows [row0, row0 + rows) and columns [column0, column0 + columns) of C over depth [k0, k0 +
// depth).
struct TileGemm::Plan {
  const GemmArgs& args;
  const float* bias;
  int64_t row0 = 0, rows = 0, strips = 0;
  int64_t column0 = 0, columns = 0, panels = 0;
  int64_t k0 = 0, depth = 0, steps = 0;
  bool first = true, last = true;  // pass over k
  bool a_in_place = false;         // all but a last strip of fewer rows
  uint16_t* a = nullptr;           // packed strips; in place: the last one alone
  uint16_t* b = nullptr;           // packed panels
  float* sums = nullptr;           // [strips, panels] blocks when there are several passes
  int64_t row_parts = 1, column_parts = 1;

  bool packed(int64_t strip) const {
    return !a_in_place || (strip + 1 == strips && rows % kTileStrip != 0);
  }
  int64_t strip_rows(int64_t strip) const {
    return std::min(kTileStrip, rows - strip * kTileStrip);
  }
  uint16_t* packed_strip(int64_t strip) const {
    return a + (a_in_place ? 0 : strip) * steps * kTileStrip * kTileStep;
  }
  uint16_t* packed_panel(int64_t panel) const { return b + panel * steps * kTilePanel * kTileStep; }
};

TileGemm::TileGemm(CpuContext context)
    : context_(context), kernels_(kTilesAmx), strips_(static_cast<size_t>(context.pool.size())) {}

void TileGemm::run(const GemmArgs& args, const float* bias) {
  Plan plan{.args = args, .bias = bias};
  const int64_t pass_depth = even_part(args.k, kPassDepth, kTileStep);
  plan.a_in_place =
      args.a.k_contiguous && args.k % kTileStep == 0 && !rows_collide(args.a.stride * 2);
  const int64_t limit = round_up(kPackedBytes / (2 * pass_depth), kTilePanel);
  const int64_t block_columns = even_part(args.n, limit, kTilePanel);
  const int64_t block_rows =
      plan.a_in_place && pass_depth >= args.k ? args.m : even_part(args.m, limit, kTileStrip);
  for (plan.column0 = 0; plan.column0 < args.n; plan.column0 += block_columns) {
    plan.columns = std::min(block_columns, args.n - plan.column0);
    plan.panels = ceil_div(plan.columns, kTilePanel);
    for (plan.row0 = 0; plan.row0 < args.m; plan.row0 += block_rows) {
      plan.rows = std::min(block_rows, args.m - plan.row0);
      plan.strips = ceil_div(plan.rows, kTileStrip);
      if (pass_depth < args.k) {
        plan.sums = sums_.get_array<float>(plan.strips * plan.panels * kTileSums);
      }
      for (plan.k0 = 0; plan.k0 < args.k; plan.k0 += pass_depth) {
        plan.depth = std::min(pass_depth, args.k - plan.k0);
        plan.steps = ceil_div(plan.depth, kTileStep);
        plan.first = plan.k0 == 0;
        plan.last = plan.k0 + pass_depth >= args.k;
        run_block(plan);
      }
    }
  }
}

void TileGemm::run_block(Plan& plan) {
  const int threads = context_.pool.size();
  // The cut whose largest part is smallest; columns first, so that threads keep to their own B.
  int64_t best = INT64_MAX;
  for (int row_parts = 1; row_parts <= threads; ++row_parts) {
    if (threads % row_parts != 0) continue;
    const int64_t column_parts = threads / row_parts;
    const int64_t part =
        ceil_div<int64_t>(plan.strips, row_parts) * ceil_div(plan.panels, column_parts);
    if (part >= best) continue;
    best = part;
    plan.row_parts = row_parts;
    plan.column_parts = column_parts;
  }
  pack(plan);
  const double work = static_cast<double>(plan.rows) * static_cast<double>(plan.columns) *
                      static_cast<double>(plan.depth);
  if (work < kInlineWork) {
    for (int part = 0; part < threads; ++part) multiply(plan, part, 0);
  } else {
    context_.pool.for_ranges(threads, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t part = begin; part < end; ++part) multiply(plan, part, thread);
    });
  }
}

void TileGemm::pack(const Plan& constant) {
  Plan& plan = const_cast<Plan&>(constant);
  const int64_t strip = plan.steps * kTileStrip * kTileStep,
                panel = plan.steps * kTilePanel * kTileStep;
  const int64_t packed_strips =
      plan.a_in_place ? (plan.packed(plan.strips - 1) ? 1 : 0) : plan.strips;
  const int64_t first_strip = plan.strips - packed_strips;
  plan.a = a_.get_array<uint16_t>(packed_strips * strip);
  plan.b = b_.get_array<uint16_t>(plan.panels * panel);
  const auto vectors = [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      i < plan.panels ? pack_panel(plan, i) : pack_strip(plan, first_strip + i - plan.panels);
    }
  };
  const int64_t count = plan.panels + packed_strips;
  if (static_cast<double>(count * strip) < kInlineWork / 8) {
    vectors(0, count, 0);
  } else {
    context_.pool.for_ranges(count, vectors);
  }
}

void TileGemm::pack_strip(const Plan& plan, int64_t strip) {
  const PackSource& a = plan.args.a;
  const PackSource from = {element(a, plan.row0 + strip * kTileStrip, plan.k0), a.stride,
                           a.k_contiguous};
  kernels_.pack_strip(plan.packed_strip(strip), from, plan.strip_rows(strip), plan.depth);
}

void TileGemm::pack_panel(const Plan& plan, int64_t panel) {
  const PackSource& b = plan.args.b;
  const int64_t column = panel * kTilePanel;
  const PackSource from = {element(b, plan.column0 + column, plan.k0), b.stride, b.k_contiguous};
  kernels_.pack_panel(plan.packed_panel(panel), from, std::min(kTilePanel, plan.columns - column),
                      plan.depth);
}

// A rectangle of C: as many panels as stay in the second-level cache, down all its strips.
void TileGemm::multiply(const Plan& plan, int64_t part, int thread) {
  const int64_t row_part = part / plan.column_parts, column_part = part % plan.column_parts;
  const int64_t panel_begin = cut(plan.panels, plan.column_parts, column_part);
  const int64_t panel_end = cut(plan.panels, plan.column_parts, column_part + 1);
  const int64_t strip_begin = cut(plan.strips, plan.row_parts, row_part);
  const int64_t strip_end = cut(plan.strips, plan.row_parts, row_part + 1);
  if (panel_begin == panel_end || strip_begin == strip_end) return;
  const int64_t group = even_part(panel_end - panel_begin,
                                  std::max<int64_t>(1, kPanelBytes / (plan.steps * kStepBytes)), 1);
  float* sums = plan.sums
                    ? nullptr
                    : strips_[static_cast<size_t>(thread)].get_array<float>(group * kTileSums);
  kernels_.enter();
  for (int64_t panel = panel_begin; panel < panel_end; panel += group) {
    const int64_t end = std::min(panel + group, panel_end);
    for (int64_t strip = strip_begin; strip < strip_end; ++strip) {
      float* to = plan.sums ? plan.sums + (strip * plan.panels + panel) * kTileSums : sums;
      multiply_strip(plan, strip, panel, end, to);
    }
  }
  kernels_.leave();
}

void TileGemm::multiply_strip(const Plan& plan, int64_t strip, int64_t panel_begin,
                              int64_t panel_end, float* sums) {
  const GemmArgs& args = plan.args;
  const int64_t row = plan.row0 + strip * kTileStrip,
                column = plan.column0 + panel_begin * kTilePanel;
  const bool packed = plan.packed(strip);
  const int64_t size = args.c_dtype == DType::kBF16 ? 2 : 4;
  const TileFinish finish = {
      .out = static_cast<std::byte*>(args.c) + (row * args.c_stride + column) * size,
      .out_stride = args.c_stride,
      .out_bf16 = args.c_dtype == DType::kBF16,
      .bias = plan.bias ? plan.bias + column : nullptr,
      .accumulate = args.accumulate,
      .rows = plan.strip_rows(strip),
      .columns = std::min(panel_end * kTilePanel, plan.columns) - panel_begin * kTilePanel};
  TileProduct p = {.a_stride = packed ? 2 * kTileStep : 2 * args.a.stride,
                   .a_step = packed ? 2 * kTileStrip * kTileStep : 2 * kTileStep,
                   .rows = finish.rows,
                   .b_stride = plan.steps * kStepBytes,
                   .panels = panel_end - panel_begin,
                   .sums = sums};
  p.depth = plan.steps * kTileStep;
  p.a = packed ? plan.packed_strip(strip) : element(args.a, row, plan.k0);
  p.b = plan.packed_panel(panel_begin);
  p.accumulate = !plan.first;
  p.finish = plan.last ? &finish : nullptr;
  p.ahead = nullptr;
  if (strip + 1 < plan.strips) {
    if (packed) {  // what follows lies behind
      p.ahead = reinterpret_cast<const char*>(p.a + p.depth * kTileStrip);
      p.ahead_stride = 2 * p.depth;
    } else if (!plan.packed(strip + 1)) {
      p.ahead = reinterpret_cast<const char*>(element(args.a, row + kTileStrip, plan.k0));
      p.ahead_stride = p.a_stride;
    }
  }
  kernels_.multiply(p);
}

}  // namespace longgen
