// Byte-level BPE: GPT-2, SmolLM2, Llama-3, Qwen2, StarCoder, GPT-NeoX.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "longgen/tokenizer/bpe_merges.h"
#include "longgen/tokenizer/pre_tokenizer.h"
#include "longgen/tokenizer/scratch_pool.h"
#include "longgen/tokenizer/tokenizer.h"
#include "longgen/tokenizer/word_cache.h"

namespace longgen::tokenizer {

struct BpeData {
  std::string file;                 // for errors
  std::vector<std::string> pieces;  // by id, in the byte alphabet; empty: no such token
  // In order of rank, "left right".
  std::vector<std::pair<std::string, std::string>> merges;
  PreTokenizerSpec pre;
  bool add_prefix_space = false;      // a space before a piece of text that does not start with one
  int32_t unknown_symbol = kNoToken;  // what a byte without a token becomes; kNoToken: nothing
  // token_bytes and special may be empty: they follow from the pieces and the added tokens.
  TokenizerInfo info;
};

class BpeTokenizer : public Tokenizer {
 public:
  // Throws Error naming the file: pieces that come twice, merges of unknown tokens, ids out of
  // range, more than kMaxVocabulary tokens.
  static std::unique_ptr<BpeTokenizer> make(BpeData data);

  std::string missing_bytes() const override;

 protected:
  void encode_plain(std::string_view text, bool space_prefix,
                    std::vector<int32_t>& ids) const override;
  std::map<std::string, std::string> make_files() const override;

 private:
  struct Scratch {
    explicit Scratch(const PreTokenizer& pre) : pre(pre) {}
    PreTokenizer::Scratch pre;
    BpeMerges::Scratch merges;
    WordCache cache;
    std::vector<int32_t> symbols;
  };

  BpeTokenizer(BpeData data, BpeMerges merges, std::array<int32_t, 256> byte_ids);
  void encode_valid(std::string_view text, Scratch& scratch, std::vector<int32_t>& ids) const;
  void encode_word(std::string_view word, Scratch& scratch, std::vector<int32_t>& ids) const;
  void merge_word(std::string_view word, Scratch& scratch) const;

  std::string file_;
  std::vector<std::string> pieces_;
  BpeMerges merges_;
  std::array<int32_t, 256> byte_ids_;
  PreTokenizerSpec spec_;
  PreTokenizer pre_;
  bool add_prefix_space_;
  int32_t unknown_symbol_;
  std::unordered_map<std::string_view, int32_t> whole_words_;  // of info().token_bytes
  mutable ScratchPool<Scratch> scratch_;
};

}  // namespace longgen::tokenizer
