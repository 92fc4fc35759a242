// Attention over the rows of a packed training sequence: keys are the rows of the same document.
#pragma once

#include <span>
#include <vector>

#include "longgen/model/attention_layer.h"

namespace longgen::model {

class PackedAttention : public AttentionCall {
 public:
  PackedAttention(const ModelConfig& config, Backend& backend)
      : config_(config), backend_(backend) {}

  void allocate(Arena& arena, DType dtype, int64_t max_rows);

  // Empty `documents`: the whole sequence is one. Error unless they ascend, are disjoint and start
  // at a multiple of the block size.
  void set_documents(int64_t rows, std::span<const DocumentRange> documents);
  std::span<const DocumentRange> documents() const { return documents_; }

  void run(int64_t layer, const AttentionActivations& a) override;

 private:
  // Rows of no document: made zero, so that nothing they hold (NaN, say) reaches a sum over rows.
  void zero_padding(const Tensor& x) const;

  const ModelConfig& config_;
  Backend& backend_;
  Tensor workspace_;
  std::vector<DocumentRange> documents_, padding_;
  std::vector<AttentionSequence> sequences_;
};

}  // namespace longgen::model
