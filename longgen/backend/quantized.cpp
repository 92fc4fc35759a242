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

// The 32 codes of a row of a block, see weight_scheme.h. Every byte belongs to one row.
void put_codes(const Layout& l, uint8_t* at, int64_t row, const uint8_t* codes) {
  const int64_t half = row / kHalfRows, in_row = 4 * (row % kHalfRows);
  if (l.bits == 8) {
    for (int64_t g = 0; g < 8; ++g) {
      std::memcpy(at + (half * 8 + g) * 64 + in_row, codes + 4 * g, 4);
    }
    return;
  }
  for (int64_t g = 0; g < 4; ++g) {
    for (int64_t j = 4 * g; j < 4 * g + 4; ++j) {
      at[(half * 4 + g) * 64 + in_row + j % 4] =
          static_cast<uint8_t>((codes[j] & 15) | (codes[j + 16] & 15) << 4);
    }
  }
  if (l.bits != 6) return;
  for (int64_t u = 0; u < 2; ++u) {
    for (int64_t j = 0; j < 4; ++j) {
      int bits = 0;
      for (int64_t s = 0; s < 4; ++s) bits |= (codes[16 * u + 4 * s + j] >> 4 & 3) << (2 * s);
      at[512 + (half * 2 + u) * 64 + in_row + j] = static_cast<uint8_t>(bits);
    }
  }
}

void get_codes(const Layout& l, const uint8_t* at, int64_t row, uint8_t* codes) {
  const int64_t half = row / kHalfRows, in_row = 4 * (row % kHalfRows);
  if (l.bits == 8) {
    for (int64_t g = 0; g < 8; ++g) {
      std::memcpy(codes + 4 * g, at + (half * 8 + g) * 64 + in_row, 4);
    }
    return;
  }
  for (int64_t g = 0; g < 4; ++g) {
    for (int64_t j = 4 * g; j < 4 * g + 4; ++j) {
      const uint8_t both = at[(half * 4 + g) * 64 + in_row + j % 4];
      codes[j] = both & 15;
      codes[j + 16] = both >> 4;
    }
  }
  if (l.bits != 6) return;
  for (int64_t u = 0; u < 2; ++u) {
    for (int64_t j = 0; j < 4; ++j) {
      const int bits = at[512 + (half * 2 + u) * 64 + in_row + j];
      for (int64_t s = 0; s < 4; ++s) {
        uint8_t& code = codes[16 * u + 4 * s + j];
        code = static_cast<uint8_t>(code | (bits >> (2 * s) & 3) << 4);
      }
    }
  }
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
    put_codes(l, at + l.codes_at, row, block.codes.data() + kBlock * i);
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
    get_codes(l, at + l.codes_at, row, block.codes.data() + kBlock * i);
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
