// A whole model serving: prefill of prompts, and decode behind a cache of a given depth.
#pragma once

#include <cstdint>
#include <vector>

#include "bench/measurement.h"
#include "longgen/backend/backend.h"
#include "longgen/model/weights.h"

namespace longgen::bench {

// What is measured; all is only referred to.
struct ServedModel {
  const model::ModelConfig& config;
  const model::ParameterSet& weights;
  Backend& backend;
  uint64_t seed = 0;
};

// One sequence of random ids in chunks, logits of its last row, pages released as in serving.
struct PrefillCase {
  int64_t length = 2048, chunk = 1024;
};
Measurement measure_prefill(const ServedModel& model, const PrefillCase& c, const Repeats& repeats);

// Steps of one token for each of `batch` sequences, behind `depth` tokens. The cache is filled with
// random keys and values instead of a prefill's: what a step costs does not depend on their values,
// and pages are released exactly as a prefill releases them. Every step is a repeat.
struct DecodeCase {
  std::vector<int64_t> depths = {0};  // ascending
  int64_t steps = 32, batch = 1;
};
std::vector<Measurement> measure_decode(const ServedModel& model, const DecodeCase& c);

// Bytes beside the weights that a case needs: cache and activations.
int64_t prefill_bytes(const model::ModelConfig& config, DType dtype, Backend& backend,
                      const PrefillCase& c);
int64_t decode_bytes(const model::ModelConfig& config, DType dtype, Backend& backend,
                     const DecodeCase& c);

}  // namespace longgen::bench
