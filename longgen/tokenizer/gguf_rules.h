// How the tokenizers that GGUF files name (tokenizer.ggml.pre) prepare their text.
#pragma once

#include <string>
#include <vector>

#include "longgen/tokenizer/normalizer.h"
#include "longgen/tokenizer/pre_tokenizer.h"

namespace longgen::tokenizer {

struct NamedRules {
  std::vector<NormalizerStep> normalizer;
  std::vector<PreTokenizerStep> pre;
  bool ignore_merges = false;  // a word that is a token is taken whole
  bool adds_bos = false;       // unless the file says otherwise
};

// The rules of the models' own tokenizer.json. Throws Error naming `file`, the name and the known
// names.
NamedRules named_rules(const std::string& name, const std::string& file);

}  // namespace longgen::tokenizer
