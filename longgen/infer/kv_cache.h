// The keys and values of running sequences, in pages that are given back as soon as the pattern
// says that no later query can see them.
//
// Layers and KV heads with identical liveness form a KvGroup; a group has one block table a
// sequence. A page holds one block of one layer of a group, for the group's heads: keys [heads,
// block, head_dim], then values likewise. A slot is the pages of one block in all layers of its
// group: the unit that is taken and given back.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "longgen/model/config.h"
#include "longgen/model/decoder.h"
#include "longgen/tensor/arena.h"

namespace longgen::infer {

struct KvGroup {
  AttentionPattern pattern;  // one offset
  int64_t head_begin = 0, head_count = 0;
  std::vector<int64_t> layers;
};

// Ascending by first layer; together they cover every (layer, KV head) once.
std::vector<KvGroup> kv_groups(const model::ModelConfig& config);

// Bytes of keys and values that queries after `tokens` tokens of one sequence still need, in whole
// blocks, and what a model with full attention in every layer would keep. (What the last of the
// tokens sees, which published figures count, is model::kv_size.)
struct KvBytes {
  int64_t live = 0, all_full = 0;
};
KvBytes kv_bytes(const model::ModelConfig& config, DType dtype, int64_t tokens);

class KvCache : public model::KvStore {
 public:
  // Takes memory for what max_sequences sequences of up to max_tokens keep alive, and for one
  // chunk: one sequence at a time is extended by up to `chunk` tokens, the others by one, each
  // followed by release_before(length). 0: every sequence may be extended by anything and keep
  // everything.
  KvCache(const model::ModelConfig& config, DType dtype, int64_t max_sequences, int64_t max_tokens,
          MemoryResource& memory, int64_t chunk = 0);
  ~KvCache() override;

  // A handle in [0, max_sequences). Throws Error when all are taken.
  int64_t add_sequence();
  void remove_sequence(int64_t sequence);

  int64_t length(int64_t sequence) const;
  // Makes pages for positions [length, length + tokens); they become the running chunk. Throws
  // Error beyond max_tokens.
  void extend(int64_t sequence, int64_t tokens);
  // Gives back the blocks that no query at or after position - keep_back sees. A later query before
  // that would be wrong, so extend() continues from length only.
  void release_before(int64_t sequence, int64_t position, int64_t keep_back = 0);
  // The most tokens, at most `tokens` and length, behind which the sequence can be continued: every
  // block that a query there sees is still held.
  int64_t usable_prefix(int64_t sequence, int64_t tokens) const;
  // Cuts the sequence back to `tokens`, which must be a usable prefix.
  void truncate(int64_t sequence, int64_t tokens);

  std::span<const Part> parts(int64_t layer, int64_t sequence) override;
  DType dtype() const override { return dtype_; }

  int64_t bytes_in_use() const { return bytes_in_use_; }
  int64_t peak_bytes_in_use() const { return peak_bytes_in_use_; }
  // The peak from now on.
  void reset_peak() { peak_bytes_in_use_ = bytes_in_use_; }
  // Memory that has been touched: pages in use and pages that wait for reuse.
  int64_t bytes_reserved() const;
  // Memory taken when it was made; on a host, untouched pages of it cost nothing.
  int64_t bytes_allocated() const;
  // That of a cache made with these arguments.
  static int64_t bytes_needed(const model::ModelConfig& config, DType dtype, int64_t max_sequences,
                              int64_t max_tokens, int64_t chunk);
  // What the running sequences would hold were every layer full.
  int64_t all_full_bytes() const;

 private:
  struct Pool;      // the slots of one group
  struct Sequence;  // length and a block table a group

  int64_t slot_bytes(size_t group) const;
  void take_slot(size_t group, Sequence& sequence, int64_t block);
  void give_slot(size_t group, Sequence& sequence, int64_t block);
  Sequence& get(int64_t sequence) const;
  bool holds_all_for(const Sequence& sequence, int64_t position) const;

  DType dtype_;
  int64_t block_size_, head_dim_, kv_heads_, num_layers_, max_tokens_;
  std::vector<KvGroup> groups_;
  std::vector<std::vector<std::pair<size_t, int64_t>>>
      layer_groups_;  // (group, layer's place in it)
  std::vector<std::unique_ptr<Pool>> pools_;
  std::vector<std::unique_ptr<Sequence>> sequences_;  // null: free
  std::vector<Part> parts_;                           // of the last parts() call
  int64_t bytes_in_use_ = 0, peak_bytes_in_use_ = 0;
};

}  // namespace longgen::infer
