// What a tokenizer does to a text before it is cut: the normalizers of tokenizer.json.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "longgen/tokenizer/regex.h"

namespace longgen::tokenizer {

struct NormalizerStep {
  enum class Kind {
    kNfc,
    kNfd,
    kNfkc,
    kNfkd,
    kLowercase,
    kStripAccents,  // drops combining marks
    kStrip,         // drops white space at the ends
    kPrepend,       // puts `content` before a text that is not empty
    kReplace,       // matches of `pattern` become `content`
  };
  Kind kind = Kind::kNfc;
  std::string pattern, content;
  bool left = true, right = true;  // kStrip

  bool operator==(const NormalizerStep&) const = default;
};

class Normalizer {
 public:
  // Throws Error naming `where` when an expression is not supported.
  Normalizer(std::vector<NormalizerStep> steps, const std::string& where);

  const std::vector<NormalizerStep>& steps() const { return steps_; }
  bool empty() const { return steps_.empty(); }
  // Bytes that are not UTF-8 stay as they are; the text between them is normalised.
  std::string apply(std::string_view text, Regex::Scratch& scratch) const;

 private:
  std::vector<NormalizerStep> steps_;
  std::vector<std::optional<Regex>> regexes_;  // by step; of kReplace
};

}  // namespace longgen::tokenizer
