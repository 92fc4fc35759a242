// What of a prompt a layer need not compute. Where nothing is asked of rows before a position, the
// layers above the last full one see only a window and sinks each, so of most rows nobody ever
// reads what they would compute there.
#pragma once

#include <cstdint>
#include <vector>

#include "longgen/model/config.h"

namespace longgen::model {

// Rows [begin, begin + count) of a call.
struct RowRange {
  int64_t begin = 0, count = 0;

  int64_t end() const { return begin + count; }
  bool operator==(const RowRange&) const = default;
};

// Positions [0, head) and [tail, ...) of a sequence.
struct NeededRows {
  int64_t head = 0, tail = 0;

  // Of the rows at positions [begin, begin + count): one range that holds all needed ones.
  RowRange of(int64_t begin, int64_t count) const;
  // Of the first n positions.
  int64_t count(int64_t n) const;
};

// num_layers + 1 entries: whose keys and values each layer needs, which are whose outputs the layer
// below it needs; the last entry, whose outputs the last layer gives: those from asks_from on.
// Patterns with a stride see every part of a sequence, as full ones do.
std::vector<NeededRows> needed_rows(const ModelConfig& config, int64_t asks_from);

// Whether the keys and values that a prompt which asks from `before` on leaves are all that one
// which asks from `now` on needs of the positions that both have.
bool needs_no_more_rows(const ModelConfig& config, int64_t before, int64_t now);

}  // namespace longgen::model
