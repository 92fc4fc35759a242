// Where a parameter lies in a file, and names of parameters in the families' own spelling.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "longgen/model/weights.h"

namespace longgen::formats {

// The rows of one stored tensor that are a parameter: often all of them, for fused projections a
// part. A vector counts as rows of one element. The parameter's rows in the order of the file,
// f = 0, 1, ..., are the stored rows first + f / run * step + f % run.
struct StoredRows {
  std::string tensor;         // the file's name for it
  int64_t total = 0;          // rows of the stored tensor
  int64_t first = 0;          // stored row of f = 0
  int64_t run = 0, step = 0;  // runs of `run` rows at distance `step`; run 0: one run of all
  // > 0: heads of so many rows whose rows are stored as (pair, half) where the parameter has
  // (half, pair): llama.cpp's order for Llama's queries and keys.
  int64_t interleaved = 0;

  int64_t stored_row(int64_t f) const {
    return run == 0 ? first + f : first + f / run * step + f % run;
  }
  // The parameter's row for f.
  int64_t row(int64_t f) const {
    if (interleaved == 0) return f;
    const int64_t in_head = f % interleaved;
    return f - in_head + in_head % 2 * (interleaved / 2) + in_head / 2;
  }
};

// A parameter that is a stored tensor of its own.
StoredRows whole_tensor(std::string name, const model::ParamSpec& spec);

// Names without ".weight" or ".bias"; those of layers also without "model.layers.N.".
struct NamePair {
  std::string_view canonical, stored;
};
struct NameTable {
  std::string_view layer_prefix;  // "blk."
  std::span<const NamePair> outer, layer;
};
// "model.layers.7.self_attn.q_proj.weight" -> "blk.7.attn_q.weight". Throws Error for a parameter
// that the table does not have.
std::string stored_name(const NameTable& table, std::string_view canonical);

// "model.layers.7.self_attn.q_proj.weight" -> "self_attn.q_proj"; "model.norm.weight" ->
// "model.norm".
std::string_view parameter_stem(std::string_view canonical);

}  // namespace longgen::formats
