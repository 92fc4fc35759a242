// Tiny random models with PyTorch's fp64 results, from tests/golden/models.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "longgen/formats/safetensors.h"
#include "longgen/model/config.h"
#include "longgen/model/decoder.h"
#include "longgen/model/weights.h"

namespace longgen::testing {

// Names of all cases, sorted. Throws Error when there are none.
std::vector<std::string> golden_cases();

class GoldenModel {
 public:
  explicit GoldenModel(const std::string& name);

  // Weights in `dtype`, converted from f32.
  std::unique_ptr<model::ParameterSet> weights(DType dtype, MemoryResource& memory) const;
  // f64 values of any tensor of the file.
  std::vector<double> values(const std::string& name) const;
  std::vector<double> gradient(const std::string& parameter) const {
    return values("grad." + parameter);
  }

  model::PackedSequence sequence() const { return {ids, labels, documents}; }
  // False for rows of no document.
  bool is_real(int64_t row) const;
  int64_t valid_labels() const;

  model::ModelConfig config;
  std::vector<int32_t> ids, labels;
  std::vector<DocumentRange> documents;  // empty: concat

 private:
  std::vector<int32_t> integers(const std::string& name) const;

  std::unique_ptr<formats::SafetensorsFile> file_;
};

// Elements of a contiguous host tensor of f64, f32 or bf16.
std::vector<double> to_doubles(const Tensor& x);

// ||a - b|| / ||b||, or ||a - b|| where b is (all but) zero.
double relative_l2(const std::vector<double>& a, const std::vector<double>& b);

}  // namespace longgen::testing
