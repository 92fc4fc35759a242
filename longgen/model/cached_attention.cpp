#include "longgen/model/cached_attention.h"

#include "longgen/backend/device_queue.h"
#include "longgen/model/buffers.h"

namespace longgen::model {
namespace {

Tensor heads(const Tensor& x, int64_t begin, int64_t count) { return x.slice(1, begin, count); }

}  // namespace

void CachedAttention::allocate(Arena& arena, DType dtype, int64_t max_rows) {
  workspace_ = allocate_attention_workspace(arena, config_, backend_, dtype, max_rows);
}

// All sequences of a layer are cut into the same head ranges, since those follow from its pattern.
void CachedAttention::collect_parts(int64_t layer) {
  parts_.clear();
  for (const SequenceChunk& chunk : chunks_) {
    const auto parts = store_->parts(layer, chunk.sequence);
    if (parts_.empty()) parts_per_chunk_ = parts.size();
    require(!parts.empty() && parts.size() == parts_per_chunk_,
            "layer {}: the cache cuts sequence {} into {} parts, others into {}", layer,
            chunk.sequence, parts.size(), parts_per_chunk_);
    int64_t head = 0;
    for (size_t i = 0; i < parts.size(); ++i) {
      require(parts[i].head_begin == head && parts[i].head_count > 0 &&
                  (parts_.size() < parts_per_chunk_ || parts[i].head_count == parts_[i].head_count),
              "layer {}: the cache's parts of sequence {} do not cover the KV heads in order",
              layer, chunk.sequence);
      head += parts[i].head_count;
      parts_.push_back(parts[i]);
    }
    require(head == config_.num_kv_heads, "layer {}: the cache holds {} of {} KV heads", layer,
            head, config_.num_kv_heads);
  }
}

void CachedAttention::set(std::span<const SequenceChunk> chunks, KvStore& store) {
  chunks_ = chunks;
  store_ = &store;
  written_ = false;
  rows_.clear();
  for (const SequenceChunk& chunk : chunks) {
    rows_.push_back({0, static_cast<int64_t>(chunk.ids.size())});
  }
}

void CachedAttention::select(std::span<const RowRange> of_chunks, bool written) {
  rows_.assign(of_chunks.begin(), of_chunks.end());
  written_ = written;
}

// A sequence ends with its last row here: later ones may be in no layer's cache yet.
void CachedAttention::collect_rows(size_t part) {
  sequences_.clear();
  int64_t row = 0;
  for (size_t i = 0; i < chunks_.size(); ++i) {
    const auto [begin, count] = rows_[i];
    if (count == 0) continue;
    const int64_t first = chunks_[i].first_position + begin;
    AttentionSequence s{.row_begin = row,
                        .row_count = count,
                        .first_position = first,
                        .kv = parts_[i * parts_per_chunk_ + part].kv};
    s.kv.length = first + count;
    sequences_.push_back(s);
    row += count;
  }
}

void CachedAttention::write_part(const AttentionPattern& pattern, size_t part,
                                 const AttentionActivations& a) {
  const Tensor k = heads(a.k, parts_[part].head_begin, parts_[part].head_count);
  const Tensor v = heads(a.v, parts_[part].head_begin, parts_[part].head_count);
  if (DeviceQueue* queue = device_queue(backend_)) {
    return queue->kv_write_all(sequences_, store_->dtype(), pattern.block_size, k, v);
  }
  for (const AttentionSequence& s : sequences_) {
    backend_.kv_write(s.kv, store_->dtype(), pattern.block_size, s.first_position,
                      rows(k, s.row_begin, s.row_count), rows(v, s.row_begin, s.row_count));
  }
}

void CachedAttention::attend_part(const AttentionPattern& pattern, size_t part,
                                  const AttentionActivations& a) {
  const int64_t head_begin = parts_[part].head_begin, head_count = parts_[part].head_count;
  const int64_t group = config_.group_size();
  backend_.attention_forward({.out = heads(a.out, head_begin * group, head_count * group),
                              .lse = Tensor(),
                              .q = heads(a.q, head_begin * group, head_count * group),
                              .sequences = sequences_,
                              .kv_dtype = store_->dtype(),
                              .kv_heads = head_count,
                              .kv_head_begin = head_begin,
                              .pattern = &pattern,
                              .scale = config_.attention_scale(),
                              .workspace = {static_cast<std::byte*>(workspace_.raw()),
                                            static_cast<size_t>(workspace_.numel())}});
}

void CachedAttention::write(int64_t layer, const AttentionActivations& a) {
  const AttentionPattern& pattern = config_.patterns[static_cast<size_t>(layer)];
  collect_parts(layer);
  for (size_t part = 0; part < parts_per_chunk_; ++part) {
    collect_rows(part);
    write_part(pattern, part, a);
  }
}

void CachedAttention::run(int64_t layer, const AttentionActivations& a) {
  const AttentionPattern& pattern = config_.patterns[static_cast<size_t>(layer)];
  collect_parts(layer);
  for (size_t part = 0; part < parts_per_chunk_; ++part) {
    collect_rows(part);
    if (!written_) write_part(pattern, part, a);
    attend_part(pattern, part, a);
  }
}

}  // namespace longgen::model
