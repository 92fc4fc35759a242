#include "longgen/backend/quantized.h"

#include <cstring>

#include "longgen/base/checked.h"
#include "longgen/base/error.h"

namespace longgen::quantized {
namespace {

constexpr int64_t kHalfRows = 16;

int64_t panel_bytes(const Layout& l, int64_t k) {
  return k / (kBlock * l.shared_blocks) * (l.head_bytes + l.shared_blocks * l.block_bytes);
}

// The head shared by blocks index * shared_blocks ... of the panel that `row` lies in.
uint8_t* head_of(const WeightView& w, int64_t row, int64_t index) {
  const Layout& l = layout(w.scheme);
  return static_cast<uint8_t*>(w.data.raw()) + row / kPanelRows * panel_bytes(l, w.k()) +
         index * (l.head_bytes + l.shared_blocks * l.block_bytes);
}

void put_f16(uint8_t* to, int64_t row, uint16_t value) { std::memcpy(to + 2 * row, &value, 2); }
uint16_t get_f16(const uint8_t* from, int64_t row) {
  uint16_t value;
  std::memcpy(&value, from + 2 * row, 2);
  return value;
}

double f16_value(uint16_t bits) { return static_cast<double>(f16_to_float(f16{bits})); }

// Where the code of a row and column of a block lies, see weight_scheme.h.
struct CodePlace {
  CodePlace(const Layout& l, int64_t row, int64_t column) {
    const int64_t half = row / kHalfRows, in_row = 4 * (row % kHalfRows) + column % 4;
    const int64_t g = column / 4;
    if (l.bits == 8) {
      at = (half * 8 + g) * 64 + in_row;
      return;
    }
    at = (half * 4 + g % 4) * 64 + in_row;
    shift = g < 4 ? 0 : 4;
    high_at = 512 + (half * 2 + g / 4) * 64 + in_row;
    high_shift = static_cast<int>(2 * (g % 4));
  }
  int64_t at, high_at = 0;
  int shift = 0, high_shift = 0;
};

void put_code(const Layout& l, uint8_t* codes, int64_t row, int64_t column, int code) {
  const CodePlace place(l, row, column);
  if (l.bits == 8) {
    codes[place.at] = static_cast<uint8_t>(code);
    return;
  }
  codes[place.at] |= static_cast<uint8_t>((code & 15) << place.shift);
  if (l.bits == 6) {
    codes[place.high_at] |= static_cast<uint8_t>((code >> 4 & 3) << place.high_shift);
  }
}

uint8_t get_code(const Layout& l, const uint8_t* codes, int64_t row, int64_t column) {
  const CodePlace place(l, row, column);
  if (l.bits == 8) return codes[place.at];
  const int low = codes[place.at] >> place.shift & 15;
  const int high = l.bits == 6 ? codes[place.high_at] >> place.high_shift & 3 : 0;
  return static_cast<uint8_t>(low | high << 4);
}

double value(WeightScheme scheme, const RowBlock& b, int64_t i) {
  const double code = b.codes[static_cast<size_t>(i)], d = f16_value(b.d);
  const auto sub = static_cast<size_t>(i / kBlock), half = static_cast<size_t>(i / 16);
  switch (scheme) {
    case WeightScheme::kQ8_0:
    case WeightScheme::kQ4_0:
      return d * (code - layout(scheme).zero);
    case WeightScheme::kQ4_1:
      return d * code + f16_value(b.m);
    case WeightScheme::kQ4_K:
      return d * b.scales[sub] * code - f16_value(b.m) * b.mins[sub];
    case WeightScheme::kQ6_K:
      return d * static_cast<int8_t>(b.scales[half]) * (code - 32);
    case WeightScheme::kPlain:
      break;
  }
  fail("a plain weight has no blocks");
}

}  // namespace

std::string_view scheme_name(WeightScheme scheme) {
  constexpr std::string_view kNames[kWeightSchemes] = {"plain", "Q8_0", "Q4_0",
                                                       "Q4_1",  "Q4_K", "Q6_K"};
  return kNames[static_cast<int>(scheme)];
}

int64_t weight_bytes(WeightScheme scheme, int64_t n, int64_t k) {
  require(scheme != WeightScheme::kPlain && k % row_block(scheme) == 0,
          "a weight of {} columns is no whole number of {} blocks", k, scheme_name(scheme));
  return checked_mul(ceil_div<int64_t>(n, kPanelRows), panel_bytes(layout(scheme), k));
}

void store_block(const WeightView& w, int64_t row, int64_t index, const RowBlock& block) {
  const Layout& l = layout(w.scheme);
  uint8_t* at = head_of(w, row, index);
  row %= kPanelRows;
  if (l.head_bytes > 0) put_f16(at, row, block.d);
  if (w.scheme == WeightScheme::kQ4_K) put_f16(at + 64, row, block.m);
  at += l.head_bytes;
  for (int64_t i = 0; i < l.shared_blocks; ++i, at += l.block_bytes) {
    if (l.head_bytes == 0) put_f16(at, row, block.d);
    if (w.scheme == WeightScheme::kQ4_1) put_f16(at + 64, row, block.m);
    if (w.scheme == WeightScheme::kQ4_K) {
      at[row] = block.scales[static_cast<size_t>(i)];
      at[32 + row] = block.mins[static_cast<size_t>(i)];
    }
    if (w.scheme == WeightScheme::kQ6_K) {
      at[row] = block.scales[static_cast<size_t>(2 * i)];
      at[32 + row] = block.scales[static_cast<size_t>(2 * i + 1)];
    }
    for (int64_t c = 0; c < kBlock; ++c) {
      put_code(l, at + l.codes_at, row, c, block.codes[static_cast<size_t>(kBlock * i + c)]);
    }
  }
}

RowBlock load_block(const WeightView& w, int64_t row, int64_t index) {
  const Layout& l = layout(w.scheme);
  const uint8_t* at = head_of(w, row, index);
  RowBlock block;
  row %= kPanelRows;
  block.d = get_f16(at, row);  // of the head, or of the only block
  if (w.scheme == WeightScheme::kQ4_K || w.scheme == WeightScheme::kQ4_1) {
    block.m = get_f16(at + 64, row);
  }
  at += l.head_bytes;
  for (int64_t i = 0; i < l.shared_blocks; ++i, at += l.block_bytes) {
    if (w.scheme == WeightScheme::kQ4_K) {
      block.scales[static_cast<size_t>(i)] = at[row];
      block.mins[static_cast<size_t>(i)] = at[32 + row];
    }
    if (w.scheme == WeightScheme::kQ6_K) {
      block.scales[static_cast<size_t>(2 * i)] = at[row];
      block.scales[static_cast<size_t>(2 * i + 1)] = at[32 + row];
    }
    for (int64_t c = 0; c < kBlock; ++c) {
      block.codes[static_cast<size_t>(kBlock * i + c)] = get_code(l, at + l.codes_at, row, c);
    }
  }
  return block;
}

void dequantize_row(const WeightView& w, int64_t row, double* out) {
  const int64_t size = row_block(w.scheme);
  for (int64_t index = 0; index < w.k() / size; ++index) {
    const RowBlock block = load_block(w, row, index);
    for (int64_t i = 0; i < size; ++i) *out++ = value(w.scheme, block, i);
  }
}

}  // namespace longgen::quantized
