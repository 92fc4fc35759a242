#include "longgen/tokenizer/normalizer.h"

#include <utf8proc.h>

#include <algorithm>

#include "longgen/base/error.h"
#include "longgen/tokenizer/characters.h"
#include "longgen/tokenizer/utf8.h"

namespace longgen::tokenizer {
namespace {

using Kind = NormalizerStep::Kind;
using CodePoints = std::vector<utf8proc_int32_t>;

// Below this, characters are their own NFC and no mark combines with them from behind.
constexpr char32_t kFirstMark = 0x300;

bool is_nfc_already(std::string_view text) {
  // Lead bytes below 0xCC start characters below U+0300.
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return static_cast<uint8_t>(c) < 0xCC; });
}

// The canonical (or compatibility) decomposition, marks not in order yet.
CodePoints decomposed(std::string_view text, bool compatible) {
  const int options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compatible ? UTF8PROC_COMPAT : 0);
  CodePoints points;
  points.reserve(text.size());
  int boundary = 0;
  utf8proc_int32_t parts[32];
  for_each_character(text, [&](char32_t c, std::string_view) {
    const auto count =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), parts, std::size(parts),
                                static_cast<utf8proc_option_t>(options), &boundary);
    require(count >= 0, "cannot normalise the text: {}", utf8proc_errmsg(count));
    points.insert(points.end(), parts, parts + count);
  });
  return points;
}

int combining_class(utf8proc_int32_t c) {
  return static_cast<uint32_t>(c) < kFirstMark ? 0 : utf8proc_get_property(c)->combining_class;
}

// Marks of one character in the order of their classes (Unicode 15, D109). The library's own way is
// quadratic in the number of marks.
void order_marks(CodePoints& points) {
  for (size_t i = 0; i < points.size(); ++i) {
    if (combining_class(points[i]) == 0) continue;
    size_t end = i + 1;
    while (end < points.size() && combining_class(points[end]) != 0) ++end;
    std::stable_sort(points.begin() + static_cast<ptrdiff_t>(i),
                     points.begin() + static_cast<ptrdiff_t>(end),
                     [](auto a, auto b) { return combining_class(a) < combining_class(b); });
    i = end;
  }
}

std::string unicode_form(std::string_view text, Kind kind) {
  const bool compatible = kind == Kind::kNfkc || kind == Kind::kNfkd;
  if (kind == Kind::kNfc && is_nfc_already(text)) return std::string(text);
  CodePoints points = decomposed(text, compatible);
  order_marks(points);
  if (kind == Kind::kNfc || kind == Kind::kNfkc) {
    const auto count = utf8proc_normalize_utf32(
        points.data(), static_cast<utf8proc_ssize_t>(points.size()),
        static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    require(count >= 0, "cannot normalise the text: {}", utf8proc_errmsg(count));
    points.resize(static_cast<size_t>(count));
  }
  std::string result;
  result.reserve(text.size());
  for (const utf8proc_int32_t c : points) append_utf8(result, static_cast<char32_t>(c));
  return result;
}

// Character by character, as Rust's char::to_lowercase: only U+0130 becomes two.
std::string lowercase(std::string_view text) {
  std::string result;
  for_each_character(text, [&](char32_t c, std::string_view) {
    if (c == 0x130) {
      result += "i\xCC\x87";
    } else {
      append_utf8(result, static_cast<char32_t>(utf8proc_tolower(static_cast<int32_t>(c))));
    }
  });
  return result;
}

std::string without_marks(std::string_view text) {
  std::string result;
  for_each_character(text, [&](char32_t c, std::string_view bytes) {
    if (!is_mark(c)) result += bytes;
  });
  return result;
}

std::string replaced(std::string_view text, const Regex& regex, const std::string& content,
                     Regex::Scratch& scratch) {
  std::string result;
  regex.cut(text, scratch, [&](Regex::Range range, bool is_match) {
    result +=
        is_match ? std::string_view(content) : text.substr(range.begin, range.end - range.begin);
  });
  return result;
}

}  // namespace

Normalizer::Normalizer(std::vector<NormalizerStep> steps, const std::string& where)
    : steps_(std::move(steps)) {
  for (const NormalizerStep& step : steps_) {
    regexes_.emplace_back();
    if (step.kind == Kind::kReplace) regexes_.back().emplace(step.pattern, where);
  }
}

std::string Normalizer::apply(std::string_view text, Regex::Scratch& scratch) const {
  std::string current(text);
  for (size_t i = 0; i < steps_.size() && !current.empty(); ++i) {
    const NormalizerStep& step = steps_[i];
    if (step.kind == Kind::kPrepend) {
      current.insert(0, step.content);
      continue;
    }
    if (step.kind == Kind::kStrip) {
      const std::string_view all = current;
      const size_t begin = step.left ? white_space_prefix(all) : 0;
      const std::string_view rest = all.substr(begin);
      current =
          std::string(rest.substr(0, rest.size() - (step.right ? white_space_suffix(rest) : 0)));
      continue;
    }
    std::string next;
    for_each_utf8_run(
        current,
        [&](std::string_view valid) {
          if (step.kind == Kind::kLowercase) {
            next += lowercase(valid);
          } else if (step.kind == Kind::kStripAccents) {
            next += without_marks(valid);
          } else if (step.kind == Kind::kReplace) {
            next += replaced(valid, *regexes_[i], step.content, scratch);
          } else {
            next += unicode_form(valid, step.kind);
          }
        },
        [&](std::string_view invalid) { next += invalid; });
    current = std::move(next);
  }
  return current;
}

}  // namespace longgen::tokenizer
