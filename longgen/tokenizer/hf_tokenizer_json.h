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
#include "longgen/tokenizer/hf_pipeline.h"
#include "longgen/tokenizer/tokenizer.h"

namespace longgen::tokenizer {

// The id of a token by its text, or kNoToken.
using TokenFinder = std::function<int32_t(const std::string& text)>;

struct HfTokenizer {
  std::string file;
  std::vector<std::string> pieces;  // by id; added tokens included, as written
  std::vector<bool> in_model;       // by id: not only added
  std::vector<std::pair<std::string, std::string>> merges;
  bool byte_fallback = false, ignore_merges = false, fuse_unknown = false;
  std::string unknown_token;  // of the model; "": none
  HfPipeline pipeline;
  TokenizerInfo info;
  std::unordered_map<std::string, int32_t> ids;

  int32_t find(const std::string& text) const {
    const auto found = ids.find(text);
    return found == ids.end() ? kNoToken : found->second;
  }
};

// Throws Error naming `file` and the field.
HfTokenizer parse_tokenizer_json(const formats::Json& json, const std::string& file);

// Bytes or BPE.
std::unique_ptr<Tokenizer> make_hf_tokenizer(HfTokenizer parsed);

AddedToken read_added_token(const formats::JsonObject& object, int32_t id);

}  // namespace longgen::tokenizer
