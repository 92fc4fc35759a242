// Attention over a cache: the new rows' keys and values are written to it first.
#pragma once

#include <span>
#include <vector>

#include "longgen/model/attention_layer.h"
#include "longgen/model/decoder.h"

namespace longgen::model {

class CachedAttention : public AttentionCall {
 public:
  CachedAttention(const ModelConfig& config, Backend& backend)
      : config_(config), backend_(backend) {}

  void allocate(Arena& arena, DType dtype, int64_t max_rows);

  // What the following calls run; both outlive them.
  void set(std::span<const SequenceChunk> chunks, KvStore& store) {
    chunks_ = chunks;
    store_ = &store;
  }

  void run(int64_t layer, const AttentionActivations& a) override;

 private:
  void collect_parts(int64_t layer);
  // The new rows of sequences_ into the cache.
  void write(const AttentionPattern& pattern, const Tensor& k, const Tensor& v);

  const ModelConfig& config_;
  Backend& backend_;
  Tensor workspace_;
  std::span<const SequenceChunk> chunks_;
  KvStore* store_ = nullptr;
  std::vector<KvStore::Part> parts_;  // chunk by chunk, parts_per_chunk_ each
  size_t parts_per_chunk_ = 0;
  std::vector<AttentionSequence> sequences_;
};

}  // namespace longgen::model
