// Byte-pair encoding as the `tokenizers` library does it: over bytes (GPT-2, SmolLM2, Llama-3,
// Qwen2, GPT-NeoX, OPT) or over characters with bytes for those it does not know (Llama-2, Mistral,
// Phi-3).
#pragma once

#include <array>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "longgen/tokenizer/bpe_merges.h"
#include "longgen/tokenizer/normalizer.h"
#include "longgen/tokenizer/pre_tokenizer.h"
#include "longgen/tokenizer/scratch_pool.h"
#include "longgen/tokenizer/tokenizer.h"
#include "longgen/tokenizer/word_cache.h"

namespace longgen::tokenizer {

struct BpeData {
  std::string file;                 // for errors
  std::vector<std::string> pieces;  // by id, in the byte alphabet or as text; empty: no such token
  std::vector<bool> in_model;       // by id: false for tokens that were only added; empty: all true
  // In order of rank: left, right.
  std::vector<std::pair<std::string, std::string>> merges;
  std::vector<NormalizerStep> normalizer;
  std::vector<PreTokenizerStep> pre;
  bool byte_level = true;             // symbols are bytes; else characters
  bool byte_fallback = false;         // an unknown character becomes the tokens <0xNN> of its bytes
  bool ignore_merges = false;         // a word that is a token is taken whole
  bool fuse_unknown = false;          // unknown symbols side by side become one
  int32_t unknown_symbol = kNoToken;  // what an unknown symbol becomes; kNoToken: nothing
  // See Tokenizer::spaces_to_drop: at the start of a text, behind an added token.
  size_t dropped_at_start = 0, dropped_behind_added = 0;
  // token_bytes: by id what tokens stand for; empty: it follows from the pieces in the byte
  // alphabet. special may be empty: it follows from the added tokens.
  TokenizerInfo info;
};

class BpeTokenizer : public Tokenizer {
 public:
  // Throws Error naming the file: pieces that come twice, merges of unknown tokens, ids out of
  // range, more than kMaxVocabulary tokens.
  static std::unique_ptr<BpeTokenizer> make(BpeData data);

  std::string missing_bytes() const override;

 protected:
  void encode_plain(std::string_view text, Piece piece, std::vector<int32_t>& ids) const override;
  size_t spaces_to_drop(bool first) const override {
    return first ? data_.dropped_at_start : data_.dropped_behind_added;
  }
  std::map<std::string, std::string> make_files() const override;

 private:
  struct Scratch {
    Regex::Scratch regex;
    BpeMerges::Scratch merges;
    WordCache cache;
    std::vector<int32_t> symbols;
  };
  // Ids of the symbols that words start as; kNoToken where there is none.
  struct Symbols {
    std::array<int32_t, 256> bytes;  // byte_level: of bytes; else the fallback's <0xNN>
    std::unordered_map<char32_t, int32_t> characters;
    bool all_bytes = false;
  };
  static Symbols find_symbols(const BpeData& data,
                              const std::unordered_map<std::string_view, int32_t>& ids);

  BpeTokenizer(BpeData data, BpeMerges merges, Symbols symbols);
  bool cuts_at_spaces() const;

  void encode_normalized(std::string_view text, bool first, Scratch& scratch,
                         std::vector<int32_t>& ids) const;
  void encode_piece(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const;
  void encode_word(std::string_view word, Scratch& scratch, std::vector<int32_t>& ids) const;
  void encode_invalid(std::string_view bytes, Scratch& scratch, std::vector<int32_t>& ids) const;
  void merge_word(std::string_view word, Scratch& scratch) const;
  void byte_symbols(std::string_view word, std::vector<int32_t>& symbols) const;
  void character_symbols(std::string_view word, std::vector<int32_t>& symbols) const;

  BpeData data_;  // without info, merges and in_model
  BpeMerges merges_;
  Symbols symbols_;
  Normalizer normalizer_;
  PreTokenizer pre_;
  AddedTokenMatcher normalized_;  // the added tokens that are found in normalised text
  std::unordered_map<std::string, int32_t> whole_words_;
  bool cuts_at_spaces_;
  mutable ScratchPool<Scratch> scratch_;
};

}  // namespace longgen::tokenizer
