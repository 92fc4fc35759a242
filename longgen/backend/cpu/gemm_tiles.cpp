#include "longgen/backend/cpu/gemm_tiles.h"

#include <algorithm>

#include "longgen/backend/cpu/gemm.h"
#include "longgen/base/checked.h"

namespace longgen {
namespace {

constexpr int64_t kPassDepth = 2304;               // beyond it k is cut into passes
constexpr int64_t kLeastPassDepth = 640;           // worth a pass of its own over C
constexpr int64_t kCutDepth = 640;                 // a strip of A so deep stays in the first level
constexpr int64_t kPanelBytes = int64_t{5} << 18;  // of B that a thread walks down C with
constexpr int64_t kItemsAThread = 4;               // at least, where there are as many blocks
constexpr int64_t kStreamBytes = int64_t{32}
                                 << 20;  // a larger C is gone from caches when it is read
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

// Rows that lie half or whole pages apart share too few cache sets for 32 of them.
bool rows_collide(int64_t stride_bytes) { return stride_bytes % 2048 == 0; }

int64_t cut(int64_t total, int64_t parts, int64_t part) { return total * part / parts; }

// Whether whole lines of C are written once, and more of them than stay in caches.
bool streams(const GemmArgs& args) {
  const auto address = reinterpret_cast<uintptr_t>(args.c);
  return args.c_dtype == DType::kF32 && args.base == nullptr && args.n % kTilePanel == 0 &&
         address % 64 == 0 && args.c_stride % 16 == 0 && args.m * args.n * 4 > kStreamBytes;
}

// The depth of passes over which all of B stays in the second-level cache, where A is packed and C,
// in f32 and no larger than caches, takes their sums: then a strip of A is packed just before it is
// used, and once. 0: no such depth.
int64_t depth_of_whole_b(const GemmArgs& args) {
  if (args.a.k_contiguous || args.c_dtype != DType::kF32) return 0;
  const int64_t steps = kPanelBytes / (ceil_div(args.n, kTilePanel) * kStepBytes);
  const int64_t depth = std::min(args.k, steps * kTileStep);
  if (depth < args.k && (depth < kLeastPassDepth || args.m * args.n * 4 > kPackedBytes)) return 0;
  return even_part(args.k, depth, kTileStep);
}

}  // namespace

// 32 rows of A, packed or where they lie.
struct TileGemm::AStrip {
  const uint16_t* data;  // row 0, first step
  int64_t stride, step;  // bytes from row to row and from step to step

  static AStrip packed(const uint16_t* data) {
    return {data, 2 * kTileStep, 2 * kTileStrip * kTileStep};
  }
  const uint16_t* at(int64_t i) const { return data + i * step / 2; }
  // Has `p` fetch what it reads of this strip from step i on.
  void fetch(TileProduct& p, int64_t i) const {
    const bool packed = step != 2 * kTileStep;  // what follows lies behind
    p.ahead = reinterpret_cast<const char*>(at(i));
    p.ahead_rows = p.rows;
    p.ahead_bytes = 2 * p.depth;
    p.ahead_stride = packed ? 2 * p.depth : stride;
  }
};

// Rows [row0, row0 + rows) and columns [column0, column0 + columns) of C over depth [k0, k0 +
// depth).
struct TileGemm::Plan {
  const GemmArgs& args;
  const float* bias;
  int64_t row0 = 0, rows = 0, strips = 0;
  int64_t column0 = 0, columns = 0, panels = 0;
  int64_t k0 = 0, depth = 0, steps = 0;
  bool first = true, last = true;           // pass over k
  bool stream = false;                      // C is written past the caches
  bool a_in_place = false;                  // all but a last strip of fewer rows
  bool a_on_use = false;                    // strips are packed by who multiplies them
  uint16_t* a = nullptr;                    // packed strips; in place: the last one alone
  uint16_t* b = nullptr;                    // packed panels
  float* sums = nullptr;                    // [strips, panels] blocks when there are several passes
  int64_t row_parts = 1, column_parts = 1;  // work items: rectangles of C

  bool packed(int64_t strip) const {
    return !a_in_place || (strip + 1 == strips && rows % kTileStrip != 0);
  }
  AStrip strip(int64_t i) const {
    if (packed(i)) return AStrip::packed(packed_strip(i));
    return {element(args.a, row0 + i * kTileStrip, k0), 2 * args.a.stride, 2 * kTileStep};
  }
  PackSource strip_source(int64_t i) const {
    return {element(args.a, row0 + i * kTileStrip, k0), args.a.stride, args.a.k_contiguous};
  }
  int64_t strip_rows(int64_t strip) const {
    return std::min(kTileStrip, rows - strip * kTileStrip);
  }
  // Has `p` fetch what is read first of a strip.
  void fetch_strip(TileProduct& p, int64_t i) const {
    if (!a_on_use) return strip(i).fetch(p, 0);
    p.ahead = reinterpret_cast<const char*>(strip_source(i).data);
    p.ahead_rows = depth;
    p.ahead_bytes = 2 * strip_rows(i);
    p.ahead_stride = 2 * args.a.stride;
  }
  uint16_t* packed_strip(int64_t strip) const {
    return a + (a_in_place ? 0 : strip) * steps * kTileStrip * kTileStep;
  }
  uint16_t* packed_panel(int64_t panel) const { return b + panel * steps * kTilePanel * kTileStep; }
};

TileGemm::TileGemm(CpuContext context)
    : context_(context), kernels_(kTilesAmx), threads_(static_cast<size_t>(context.pool.size())) {}

void TileGemm::run(const GemmArgs& args, const float* bias) {
  Plan plan{.args = args, .bias = bias};
  const int64_t depth_on_use = depth_of_whole_b(args);
  const int64_t pass_depth =
      depth_on_use > 0 ? depth_on_use : even_part(args.k, kPassDepth, kTileStep);
  plan.a_in_place =
      args.a.k_contiguous && args.k % kTileStep == 0 && !rows_collide(args.a.stride * 2);
  plan.a_on_use = depth_on_use > 0;
  plan.stream = streams(args);
  const int64_t limit = round_up(kPackedBytes / (2 * pass_depth), kTilePanel);
  const int64_t block_columns = even_part(args.n, limit, kTilePanel);
  const bool all_rows = plan.a_on_use || (plan.a_in_place && pass_depth >= args.k);
  const int64_t block_rows = all_rows ? args.m : even_part(args.m, limit, kTileStrip);
  for (plan.column0 = 0; plan.column0 < args.n; plan.column0 += block_columns) {
    plan.columns = std::min(block_columns, args.n - plan.column0);
    plan.panels = ceil_div(plan.columns, kTilePanel);
    for (plan.row0 = 0; plan.row0 < args.m; plan.row0 += block_rows) {
      plan.rows = std::min(block_rows, args.m - plan.row0);
      plan.strips = ceil_div(plan.rows, kTileStrip);
      if (pass_depth < args.k && !plan.a_on_use) {
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

// Threads take rectangles of C one by one: on a shared machine they are seldom equally fast. All
// rows of some panels come before the next panels, so that B stays in the second-level cache.
void TileGemm::run_block(Plan& plan) {
  const int64_t wanted = kItemsAThread * context_.pool.size();
  plan.row_parts = std::min(plan.strips, wanted);
  plan.column_parts =
      plan.a_on_use
          ? 1
          : std::min(plan.panels,
                     std::max(ceil_div(plan.panels * plan.steps * kStepBytes, kPanelBytes),
                              ceil_div(wanted, plan.row_parts)));
  pack(plan);
  const int64_t items = plan.row_parts * plan.column_parts;
  const double work = static_cast<double>(plan.rows) * static_cast<double>(plan.columns) *
                      static_cast<double>(plan.depth);
  if (work < kInlineWork) {
    for (int64_t item = 0; item < items; ++item) multiply(plan, item, 0);
  } else {
    context_.pool.for_each(items, [&](int64_t item, int thread) { multiply(plan, item, thread); });
  }
}

void TileGemm::pack(Plan& plan) {
  const int64_t strip = plan.steps * kTileStrip * kTileStep;
  const int64_t strips = plan.a_on_use     ? 0
                         : plan.a_in_place ? (plan.packed(plan.strips - 1) ? 1 : 0)
                                           : plan.strips;
  const int64_t first_strip = plan.strips - strips, count = plan.panels + strips;
  plan.a = a_.get_array<uint16_t>(strips * strip);
  plan.b = b_.get_array<uint16_t>(plan.panels * strip);
  const auto vectors = [&](int64_t i, int) {
    if (i < plan.panels) return pack_panel(plan, i);
    const int64_t s = first_strip + i - plan.panels;
    kernels_.pack_strip(plan.packed_strip(s), plan.strip_source(s), plan.strip_rows(s), plan.depth);
  };
  if (static_cast<double>(count * strip) < kInlineWork / 8) {
    for (int64_t i = 0; i < count; ++i) vectors(i, 0);
  } else {
    context_.pool.for_each(count, vectors);
  }
}

void TileGemm::pack_panel(const Plan& plan, int64_t panel) {
  const PackSource& b = plan.args.b;
  const int64_t column = panel * kTilePanel;
  const PackSource from = {element(b, plan.column0 + column, plan.k0), b.stride, b.k_contiguous};
  kernels_.pack_panel(plan.packed_panel(panel), from, std::min(kTilePanel, plan.columns - column),
                      plan.depth);
}

void TileGemm::multiply(const Plan& plan, int64_t item, int thread) {
  const int64_t row_part = item % plan.row_parts, column_part = item / plan.row_parts;
  const int64_t panel = cut(plan.panels, plan.column_parts, column_part);
  const int64_t end = cut(plan.panels, plan.column_parts, column_part + 1);
  ThreadState& state = threads_[static_cast<size_t>(thread)];
  float* sums = plan.sums
                    ? nullptr
                    : state.sums.get_array<float>(std::max<int64_t>(end - panel, 2) * kTileSums);
  uint16_t* packed =
      plan.a_on_use ? state.a.get_array<uint16_t>(plan.steps * kTileStrip * kTileStep) : nullptr;
  kernels_.enter();
  for (int64_t strip = cut(plan.strips, plan.row_parts, row_part);
       strip < cut(plan.strips, plan.row_parts, row_part + 1); ++strip) {
    float* to = plan.sums ? plan.sums + (strip * plan.panels + panel) * kTileSums : sums;
    if (packed) {
      kernels_.pack_strip(packed, plan.strip_source(strip), plan.strip_rows(strip), plan.depth);
    }
    multiply_strip(plan, packed ? AStrip::packed(packed) : plan.strip(strip), strip, panel, end,
                   to);
  }
  kernels_.leave();
}

// Depth by depth, so that the strip's rows are read from the first-level cache for all panels but
// the first; meanwhile those of the next depth, or of the next strip, are fetched.
void TileGemm::multiply_strip(const Plan& plan, const AStrip& a, int64_t strip, int64_t panel_begin,
                              int64_t panel_end, float* sums) {
  const GemmArgs& args = plan.args;
  const int64_t row = plan.row0 + strip * kTileStrip,
                column = plan.column0 + panel_begin * kTilePanel;
  const int64_t size = args.c_dtype == DType::kBF16 ? 2 : 4;
  const bool onto_c = plan.a_on_use && !plan.first;  // what earlier passes left
  const auto* base = static_cast<const std::byte*>(onto_c ? args.c : args.base);
  const int64_t base_stride = onto_c ? args.c_stride : args.base_stride;
  const TileFinish finish = {
      .out = static_cast<std::byte*>(args.c) + (row * args.c_stride + column) * size,
      .out_stride = args.c_stride,
      .out_bf16 = args.c_dtype == DType::kBF16,
      .bias = plan.bias && !onto_c ? plan.bias + column : nullptr,
      .base = base ? base + (row * base_stride + column) * size : nullptr,
      .base_stride = base_stride,
      .stream = plan.stream,
      .rows = plan.strip_rows(strip),
      .columns = std::min(panel_end * kTilePanel, plan.columns) - panel_begin * kTilePanel};
  const int64_t part = even_part(plan.steps, kCutDepth / kTileStep, 1);
  for (int64_t step = 0; step < plan.steps; step += part) {
    const int64_t steps = std::min(part, plan.steps - step);
    TileProduct p = {.a = a.at(step),
                     .a_stride = a.stride,
                     .a_step = a.step,
                     .rows = finish.rows,
                     .b = plan.packed_panel(panel_begin) + step * kTilePanel * kTileStep,
                     .b_stride = plan.steps * kStepBytes,
                     .panels = panel_end - panel_begin,
                     .depth = steps * kTileStep,
                     .sums = sums,
                     .accumulate = (!plan.first && !plan.a_on_use) || step > 0,
                     .finish = nullptr,
                     .ahead = nullptr,
                     .ahead_rows = 0,
                     .ahead_bytes = 0,
                     .ahead_stride = 0};
    if (step + steps < plan.steps) {
      a.fetch(p, step + steps);
    } else {
      if (plan.last || plan.a_on_use) p.finish = &finish;
      if (strip + 1 < plan.strips) plan.fetch_strip(p, strip + 1);
    }
    kernels_.multiply(p);
  }
}

}  // namespace longgen
