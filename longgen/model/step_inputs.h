// The integers of one call, on the device: ids, labels, positions, and the rotary table.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "longgen/model/attention_layer.h"
#include "longgen/model/embedding.h"

namespace longgen::model {

class StepInputs {
 public:
  // max_position: one past the largest position.
  StepInputs(const ModelConfig& config, int64_t max_rows, int64_t max_position);

  // Once into the arena, then fill_table().
  void allocate(Arena& arena);
  void fill_table(Backend& backend) const;

  // Ids in [0, vocab) and positions in [0, max_position), of equal size: Error naming the row.
  void set(Backend& backend, std::span<const int32_t> ids, std::span<const int32_t> positions);

  int64_t rows() const { return rows_; }
  StepContext context(Backend& backend) const;
  EmbeddingIds embedding_ids() const;

 private:
  const ModelConfig& config_;
  int64_t max_rows_, max_position_, rows_ = 0;
  Tensor ids_, positions_, learned_, table_;
  std::vector<int32_t> learned_host_;
};

}  // namespace longgen::model
