// Models to measure when there is no file: known shapes with random weights. Times do not depend on
// the values of weights.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "longgen/backend/backend.h"
#include "longgen/model/config.h"
#include "longgen/model/weights.h"

namespace longgen::bench {

// "smollm2-135m", "llama-2-7b", "llama-3.2-1b", "tiny" (for tests). Every layer full.
std::vector<std::string> shape_names();
// Throws UsageError that lists the names.
model::ModelConfig shape_config(const std::string& name);

// Fills `x` (f32 or bf16) with values in [-scale, scale), repeating after a million. In a device's
// memory it is filled through `backend`.
void fill_random(const Tensor& x, double scale, uint64_t seed, Backend* backend = nullptr);
// Norms 1, biases 0, matrices within +-0.035.
void fill_random(const model::ParameterSet& weights, uint64_t seed, Backend* backend = nullptr);
std::vector<int32_t> random_ids(int64_t count, int64_t vocab_size, uint64_t seed);

}  // namespace longgen::bench
