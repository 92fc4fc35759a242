// Which tokens an attention layer sees: arithmetic only, no model needed.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace longgen {

// A static causal pattern over blocks of tokens: a query sees the blocks of its window, the first
// blocks of the document, and every stride-th block. Immutable; copies are cheap.
class Pattern {
 public:
  // "full", "sink-window", "strided", or a list such as "local:32,sink:1,stride:64,block:64".
  // `kv_heads` matters to "offset:heads" alone.
  static Pattern parse(std::string_view text, int64_t kv_heads = 1);
  // One pattern a layer, from "full=middle:12 sparse=local:32,sink:1".
  static std::vector<Pattern> parse_hybrid(std::string_view text, int64_t layers,
                                           int64_t kv_heads = 1);

  bool is_full() const;
  int64_t block_size() const;
  // Whether the query at position `query` sees the key at position `key`.
  bool sees(int64_t query, int64_t key, int64_t kv_head = 0) const;
  // (query, key) pairs that a document of `length` tokens has: what attention costs.
  int64_t pairs(int64_t length, int64_t kv_head = 0) const;
  // Tokens whose keys and values are kept after `length` tokens: what a cache costs.
  int64_t tokens_kept(int64_t length, int64_t kv_head = 0) const;
  std::string to_string() const;

 private:
  friend class Model;
  struct Impl;
  explicit Pattern(std::shared_ptr<const Impl> impl);
  std::shared_ptr<const Impl> impl_;
};

}  // namespace longgen
