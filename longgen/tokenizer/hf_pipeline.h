// What tokenizer.json says about text on its way to the model and back: normalizer, pre_tokenizer,
// post_processor, decoder. A rule that is not understood is an error that names it.
#pragma once

#include <string>
#include <vector>

#include "longgen/formats/json.h"
#include "longgen/tokenizer/normalizer.h"
#include "longgen/tokenizer/pre_tokenizer.h"

namespace longgen::tokenizer {

struct HfPipeline {
  std::vector<NormalizerStep> normalizer;
  std::vector<PreTokenizerStep> pre;
  bool byte_level = false;    // words are in the byte alphabet
  std::string leading_token;  // put before every text; "": none

  // Decoding a token: of its text, unless byte_level...
  std::vector<NormalizerStep> replacements;  // all kReplace
  bool decodes_bytes = false;                // <0xNN> is a byte
  // ... and the spaces that it loses at the start of a text, and behind an added token.
  size_t dropped_at_start = 0, dropped_behind_added = 0;
};

// Throws Error naming the file (`root`'s place) and the field.
HfPipeline parse_pipeline(const formats::JsonObject& root);

}  // namespace longgen::tokenizer
