// Tiny random models of several families, with weights on either side, and what they compute.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "longgen/backend/backend.h"
#include "longgen/model/config.h"
#include "longgen/model/weights.h"

namespace longgen::testing {

// "llama" (grouped heads, hybrid with sinks and a window), "strided" (offsets that differ by head),
// "qwen3" (QK norm), "neox" (parallel residual, biases, part of the channels rotates), "opt"
// (learned positions, no gate).
std::vector<std::string> tiny_models();
// Blocks of 16, 256 positions, heads of 64: patterns give blocks back after few tokens. Beside the
// above, "windows": blocks of 64 and 1,024 positions, of whose upper layers a prompt needs few rows.
model::ModelConfig tiny_config(const std::string& name);

// The same numbers for every dtype and device, rounded to `dtype`: uneven logits, of which bf16
// leaves about 1 %.
class TinyModel {
 public:
  // `rounded`: the numbers are those of bf16, whatever the dtype.
  TinyModel(const std::string& name, DType dtype, Backend& backend, DType rounded);

  const model::ModelConfig config;
  const std::unique_ptr<model::ParameterSet> weights;
};

std::vector<int32_t> random_tokens(int64_t count, int64_t vocab_size, uint64_t seed);

// Logits of every row of one document by the training pass: whole, with masks. [ids, vocab]
std::vector<double> whole_logits(const TinyModel& model, Backend& backend,
                                 const std::vector<int32_t>& ids);
// The same over a cache that gives blocks back, in chunks.
std::vector<double> chunked_logits(const TinyModel& model, Backend& backend,
                                   const std::vector<int32_t>& ids, int64_t chunk);
// Of the last row alone, as a prompt's. [vocab]
std::vector<double> prompt_logits(const TinyModel& model, Backend& backend,
                                  const std::vector<int32_t>& ids, int64_t chunk);

}  // namespace longgen::testing
