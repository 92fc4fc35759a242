// Attention over a cache: the new rows' keys and values are written to it first, by the same call
// or by one of their own where only some rows have queries.
#pragma once

#include <span>
#include <vector>

#include "longgen/model/attention_layer.h"
#include "longgen/model/decoder.h"
#include "longgen/model/needed_rows.h"

namespace longgen::model {

class CachedAttention : public AttentionCall {
 public:
  CachedAttention(const ModelConfig& config, Backend& backend)
      : config_(config), backend_(backend) {}

  void allocate(Arena& arena, DType dtype, int64_t max_rows);

  // What the following calls run: all rows, unless select() says which. Both outlive the calls.
  void set(std::span<const SequenceChunk> chunks, KvStore& store);
  // Of each chunk the rows that the activations of the following calls hold, one after the other
  // (perhaps none of some); `written`: their keys and values are in the cache already.
  void select(std::span<const RowRange> of_chunks, bool written);

  void run(int64_t layer, const AttentionActivations& a) override;
  // Only a.k and a.v into the cache.
  void write(int64_t layer, const AttentionActivations& a);

 private:
  void collect_parts(int64_t layer);
  // sequences_ of a part.
  void collect_rows(size_t part);
  void write_part(const AttentionPattern& pattern, size_t part, const AttentionActivations& a);
  void attend_part(const AttentionPattern& pattern, size_t part, const AttentionActivations& a);

  const ModelConfig& config_;
  Backend& backend_;
  Tensor workspace_;
  std::span<const SequenceChunk> chunks_;
  KvStore* store_ = nullptr;
  std::vector<KvStore::Part> parts_;  // chunk by chunk, parts_per_chunk_ each
  size_t parts_per_chunk_ = 0;
  std::vector<AttentionSequence> sequences_;
  std::vector<RowRange> rows_;  // by chunk
  bool written_ = false;
};

}  // namespace longgen::model
