#include "longgen/tokenizer/pre_tokenizer.h"

#include <algorithm>

#include "longgen/base/error.h"
#include "longgen/tokenizer/utf8.h"

namespace longgen::tokenizer {

const char* const kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
const char* const kDigitPattern = R"(\p{N})";
const char* const kPunctuationPattern = R"([\p{P}!-/:-@\[-`{-~])";

namespace {

using Kind = PreTokenizerStep::Kind;
using Steps = std::vector<PreTokenizerStep>;

// kDigitPattern and then kGpt2Pattern in one pass: a digit ends the piece before it, so white space
// does not leave its last character to a digit.
const char* const kDigitsThenGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+)";

// A run of white space where \s+$ does not match from the start, or behind its match, has none
// further on: without this, long runs take quadratic time.
const char* const kTrailingSpacePattern = R"(\s+$)";
const char* const kTrailingSpaceFromStart = R"((?<!\s)\s+$)";

bool is_plain_split(const PreTokenizerStep& step, const char* pattern) {
  return step == PreTokenizerStep{.kind = Kind::kSplit, .text = pattern};
}

// The same pieces, found faster.
Steps optimised(Steps steps) {
  for (size_t i = 0; i + 1 < steps.size(); ++i) {
    if (!is_plain_split(steps[i], kDigitPattern) || !is_plain_split(steps[i + 1], kGpt2Pattern))
      continue;
    steps[i].text = kDigitsThenGpt2Pattern;
    steps.erase(steps.begin() + static_cast<ptrdiff_t>(i) + 1);
  }
  // At the end the alphabet would only be undone again.
  if (!steps.empty() && steps.back().kind == Kind::kByteAlphabet) steps.pop_back();
  return steps;
}

std::string without_spaces(std::string_view text, const std::string& replacement) {
  std::string result;
  for (const char c : text) {
    if (c == ' ') {
      result += replacement;
    } else {
      result += c;
    }
  }
  return result;
}

struct Part {
  size_t begin, end;
  bool is_match;
};

void merge_contiguous(std::vector<Part>& parts) {
  std::vector<Part> merged;
  bool previous = false;
  for (const Part& part : parts) {
    if (part.is_match == previous && !merged.empty()) {
      merged.back().end = part.end;
    } else {
      merged.push_back(part);
    }
    previous = part.is_match;
  }
  parts = std::move(merged);
}

// A match joins the piece before it unless that is a match too.
void merge_with_previous(std::vector<Part>& parts) {
  std::vector<Part> merged;
  bool previous = false;
  for (const Part& part : parts) {
    if (part.is_match && !previous && !merged.empty()) {
      merged.back().end = part.end;
    } else {
      merged.push_back(part);
    }
    previous = part.is_match;
  }
  parts = std::move(merged);
}

void merge_with_next(std::vector<Part>& parts) {
  std::reverse(parts.begin(), parts.end());
  std::vector<Part> merged;
  bool previous = false;
  for (const Part& part : parts) {
    if (part.is_match && !previous && !merged.empty()) {
      merged.back().begin = part.begin;
    } else {
      merged.push_back(part);
    }
    previous = part.is_match;
  }
  std::reverse(merged.begin(), merged.end());
  parts = std::move(merged);
}

}  // namespace

PreTokenizer::PreTokenizer(std::vector<PreTokenizerStep> steps, const std::string& where) {
  for (PreTokenizerStep& step : optimised(std::move(steps))) {
    Stage stage{std::move(step), std::nullopt};
    if (stage.step.kind == Kind::kSplit) {
      const bool trailing = stage.step.text == kTrailingSpacePattern;
      stage.regex.emplace(trailing ? kTrailingSpaceFromStart : stage.step.text, where);
    }
    stages_.push_back(std::move(stage));
  }
}

// One text on its way through the stages.
struct PreTokenizer::Walk {
  const std::vector<Stage>& stages;
  Regex::Scratch& scratch;
  const std::function<void(std::string_view)>& word;

  // `alphabet`: the piece is in GPT-2's alphabet.
  void go(size_t index, std::string_view piece, Place place, bool alphabet) const {
    if (piece.empty()) return;
    if (index == stages.size()) return finish(piece, alphabet);
    const PreTokenizerStep& step = stages[index].step;
    switch (step.kind) {
      case Kind::kSplit:
        return split(index, piece, place, alphabet);
      case Kind::kReplaceSpaces:
        return go(index + 1, without_spaces(piece, step.text), place, alphabet);
      case Kind::kPrefix: {
        const bool here =
            place == Place::kTextStart || (place == Place::kPieceStart && !step.only_first);
        if (!here || piece.starts_with(step.text)) return go(index + 1, piece, place, alphabet);
        return go(index + 1, std::string(step.text).append(piece), place, alphabet);
      }
      case Kind::kByteAlphabet:
        return go(index + 1, to_byte_level(piece), place, true);
    }
  }

  void finish(std::string_view piece, bool alphabet) const {
    if (!alphabet) return word(piece);
    std::string bytes;
    require(from_byte_level(piece, bytes), "a piece of text left the alphabet of bytes");
    word(bytes);
  }

  void split(size_t index, std::string_view piece, Place place, bool alphabet) const {
    const Stage& stage = stages[index];
    const auto emit = [&](size_t begin, size_t end) {
      go(index + 1, piece.substr(begin, end - begin), begin == 0 ? place : Place::kPieceStart,
         alphabet);
    };
    if (stage.step.behavior == SplitBehavior::kIsolated) {
      return stage.regex->cut(piece, scratch,
                              [&](Regex::Range part, bool) { emit(part.begin, part.end); });
    }
    std::vector<Part> parts;
    stage.regex->cut(piece, scratch, [&](Regex::Range part, bool is_match) {
      parts.push_back({part.begin, part.end, is_match != stage.step.inverted});
    });
    switch (stage.step.behavior) {
      case SplitBehavior::kContiguous:
        merge_contiguous(parts);
        break;
      case SplitBehavior::kMergedWithPrevious:
        merge_with_previous(parts);
        break;
      case SplitBehavior::kMergedWithNext:
        merge_with_next(parts);
        break;
      case SplitBehavior::kRemoved:
        std::erase_if(parts, [](const Part& part) { return part.is_match; });
        break;
      case SplitBehavior::kIsolated:
        break;
    }
    for (const Part& part : parts) emit(part.begin, part.end);
  }
};

void PreTokenizer::split(std::string_view text, Place place, Regex::Scratch& scratch,
                         const std::function<void(std::string_view)>& word) const {
  Walk{stages_, scratch, word}.go(0, text, place, false);
}

}  // namespace longgen::tokenizer
