// The tokenizer files of a Hugging Face directory, as save() writes them: tokenizer.json of the
// `tokenizers` library, tokenizer_config.json, special_tokens_map.json and chat_template.jinja.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "longgen/tokenizer/normalizer.h"
#include "longgen/tokenizer/pre_tokenizer.h"
#include "longgen/tokenizer/sentencepiece_model.h"
#include "longgen/tokenizer/tokenizer.h"

namespace longgen::tokenizer {

using FileTexts = std::map<std::string, std::string>;  // by name

// A byte-level BPE as its tokenizer.json states it.
struct BpeFileContents {
  std::vector<std::string> pieces;  // by id; empty: no such token
  std::vector<std::pair<std::string, std::string>> merges;
  std::vector<NormalizerStep> normalizer;
  std::vector<PreTokenizerStep> pre;  // splits, prefixes of a space, kByteAlphabet
  bool ignore_merges = false;
  std::string unknown_token;  // empty: none
};
FileTexts make_bpe_files(const BpeFileContents& contents, const TokenizerInfo& info);

// tokenizer.model itself and, where that gives the same ids, a tokenizer.json of its merges.
FileTexts make_sentencepiece_files(const SentencePieceModel& model, const TokenizerInfo& info);

}  // namespace longgen::tokenizer
