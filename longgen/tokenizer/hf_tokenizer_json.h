// tokenizer.json of the `tokenizers` library: what of it is understood. A rule for encoding that is
// not is an error that names it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "longgen/formats/json.h"
#include "longgen/tokenizer/bpe_tokenizer.h"
#include "longgen/tokenizer/sentencepiece_model.h"
#include "longgen/tokenizer/tokenizer.h"

namespace longgen::tokenizer {

// The id of a token by its text, or kNoToken.
using TokenFinder = std::function<int32_t(const std::string& text)>;

// Where a SentencePiece tokenizer puts a space before a text.
struct SpaceRule {
  SpacePrefix prefix = SpacePrefix::kNever;
  bool unless_space = false;
};

struct HfTokenizer {
  std::string file;
  bool sentencepiece = false;       // a BPE over characters with byte fallback
  std::vector<std::string> pieces;  // by id; added tokens included, as written
  std::vector<std::pair<std::string, std::string>> merges;
  PreTokenizerSpec pre;           // byte-level BPE
  bool add_prefix_space = false;  // byte-level BPE
  SpaceRule prefix;               // sentencepiece
  std::string unknown_token;      // of the model; "": none
  TokenizerInfo info;
  std::unordered_map<std::string, int32_t> ids;

  int32_t find(const std::string& text) const {
    const auto found = ids.find(text);
    return found == ids.end() ? kNoToken : found->second;
  }
};

// Throws Error naming `file` and the field.
HfTokenizer parse_tokenizer_json(const formats::Json& json, const std::string& file);

// Bytes, byte-level BPE or SentencePiece.
std::unique_ptr<Tokenizer> make_hf_tokenizer(HfTokenizer parsed);

// Whether the file describes a SentencePiece model: a BPE with byte fallback.
bool is_sentencepiece_json(const formats::Json& json, const std::string& file);

AddedToken read_added_token(const formats::JsonObject& object, int32_t id);
std::vector<AddedToken> read_added_tokens(const formats::Json& json, const std::string& file);
SpaceRule read_space_rule(const formats::Json& json, const std::string& file);

}  // namespace longgen::tokenizer
