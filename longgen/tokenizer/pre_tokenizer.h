// Cuts a text into words, which BPE then encodes one by one: the pre-tokenizers of tokenizer.json,
// applied in turn, each inside the pieces that the one before it left.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "longgen/tokenizer/regex.h"

namespace longgen::tokenizer {

// The expression of GPT-2 (openai/gpt-2 src/encoder.py).
extern const char* const kGpt2Pattern;
// One digit at a time.
extern const char* const kDigitPattern;
// One character of punctuation at a time, all of ASCII's symbols among them.
extern const char* const kPunctuationPattern;

// What becomes of the matches of an expression.
enum class SplitBehavior {
  kIsolated,            // pieces of their own
  kRemoved,             // dropped
  kMergedWithPrevious,  // the end of the piece before
  kMergedWithNext,      // the start of the piece behind
  kContiguous,          // matches side by side are one piece
};

struct PreTokenizerStep {
  enum class Kind {
    kSplit,          // at the matches of the expression `text`
    kReplaceSpaces,  // U+0020 becomes `text`
    kPrefix,         // puts `text` before a piece that does not start with it
    kByteAlphabet,   // bytes become characters of GPT-2's alphabet (utf8.h)
  };
  Kind kind = Kind::kSplit;
  std::string text;
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool inverted = false;    // kSplit: matches and the rest change places
  bool only_first = false;  // kPrefix: only at the start of the whole text

  bool operator==(const PreTokenizerStep&) const = default;
};

class PreTokenizer {
 public:
  // Throws Error naming `where` and the expression when one is not supported. No steps: one piece.
  PreTokenizer(std::vector<PreTokenizerStep> steps, const std::string& where);

  // Where a piece of text stands.
  enum class Place {
    kTextStart,   // at the start of the whole text
    kPieceStart,  // behind an added token, or a split
    kInside,      // behind bytes that are not UTF-8
  };
  // Calls word(piece) for the pieces of `text`, none of them empty, in order. `text` must be valid
  // UTF-8. Words are bytes, as before kByteAlphabet. Throws Error when an expression needs too much
  // work.
  void split(std::string_view text, Place place, Regex::Scratch& scratch,
             const std::function<void(std::string_view)>& word) const;

 private:
  struct Stage {
    PreTokenizerStep step;
    std::optional<Regex> regex;
  };
  struct Walk;

  std::vector<Stage> stages_;
};

}  // namespace longgen::tokenizer
