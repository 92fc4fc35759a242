#include "longgen/model/packed_attention.h"

#include "longgen/model/buffers.h"

namespace longgen::model {

void PackedAttention::allocate(Arena& arena, DType dtype, int64_t max_rows) {
  workspace_ = allocate_attention_workspace(arena, config_, backend_, dtype, max_rows);
}

void PackedAttention::set_documents(int64_t rows, std::span<const DocumentRange> documents) {
  documents_.assign(documents.begin(), documents.end());
  if (documents_.empty()) documents_.push_back({0, rows});
  padding_.clear();
  int64_t end = 0;
  for (const DocumentRange& document : documents_) {
    require(document.row_begin >= end && document.row_count >= 0 &&
                document.row_count <= rows - document.row_begin,
            "documents must ascend and lie within {} rows: rows {} + {} after row {}", rows,
            document.row_begin, document.row_count, end);
    require(document.row_begin % config_.patterns[0].block_size == 0,
            "a document starts at row {}, which is no multiple of the block size {}",
            document.row_begin, config_.patterns[0].block_size);
    if (document.row_begin > end) padding_.push_back({end, document.row_begin - end});
    end = document.row_begin + document.row_count;
  }
  if (end < rows) padding_.push_back({end, rows - end});
}

void PackedAttention::zero_padding(const Tensor& x) const {
  for (const DocumentRange& gap : padding_) backend_.zero(rows(x, gap.row_begin, gap.row_count));
}

void PackedAttention::run(int64_t layer, const AttentionActivations& a) {
  const AttentionPattern& pattern = config_.patterns[static_cast<size_t>(layer)];
  sequences_.clear();
  for (const DocumentRange& document : documents_) {
    const int64_t begin = document.row_begin, count = document.row_count;
    sequences_.push_back({.row_begin = begin,
                          .row_count = count,
                          .kv = {.keys = rows(a.k, begin, count).raw(),
                                 .values = rows(a.v, begin, count).raw(),
                                 .page_stride = pattern.block_size * a.k.stride(0),
                                 .head_stride = a.k.stride(1),
                                 .token_stride = a.k.stride(0),
                                 .length = count}});
  }
  backend_.attention_forward({.out = a.out,
                              .lse = a.lse,
                              .q = a.q,
                              .sequences = sequences_,
                              .kv_dtype = a.k.dtype(),
                              .kv_heads = config_.num_kv_heads,
                              .pattern = &pattern,
                              .scale = config_.attention_scale(),
                              .workspace = {static_cast<std::byte*>(workspace_.raw()),
                                            static_cast<size_t>(workspace_.numel())}});
  zero_padding(a.out);
}

}  // namespace longgen::model
