#include "longgen/tokenizer/jinja/lexer.h"

#include <algorithm>
#include <array>

#include "longgen/tokenizer/jinja/text.h"
#include "longgen/tokenizer/utf8.h"

namespace longgen::tokenizer::jinja {
namespace {

bool is_digit_char(char c) { return c >= '0' && c <= '9'; }
// Names beyond ASCII are taken as they are.
bool is_name_char(char c) {
  return is_digit_char(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
         (static_cast<unsigned char>(c) & 0x80) != 0;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(source) {}

  std::vector<Token> run() {
    while (offset_ < source_.size()) read_text();
    tokens_.push_back({TokenKind::kEnd, "", place_at(source_.size())});
    return std::move(tokens_);
  }

 private:
  // Offsets are asked for in ascending order, but for errors.
  Place place_at(size_t offset) {
    if (offset < counted_) {
      counted_ = 0;
      counted_place_ = {};
    }
    for (; counted_ < offset; ++counted_) {
      if (source_[counted_] == '\n') {
        ++counted_place_.line;
        counted_place_.column = 1;
      } else {
        ++counted_place_.column;
      }
    }
    return counted_place_;
  }
  char at(size_t offset) const { return offset < source_.size() ? source_[offset] : '\0'; }
  bool follows(std::string_view what) const { return source_.substr(offset_).starts_with(what); }
  void add(TokenKind kind, std::string_view text) {
    tokens_.push_back({kind, std::string(text), place_at(offset_)});
  }
  void skip_space() {
    offset_ = source_.size() - strip(source_.substr(offset_), std::nullopt, true, false).size();
  }

  // Text up to the next tag, then that tag.
  void read_text() {
    size_t tag = offset_;
    for (;; ++tag) {
      tag = source_.find('{', tag);
      if (tag == source_.npos || (at(tag + 1) == '{' || at(tag + 1) == '%' || at(tag + 1) == '#')) {
        break;
      }
    }
    if (tag == source_.npos) {
      add_text(source_.substr(offset_));
      offset_ = source_.size();
      return;
    }
    const char kind = source_[tag + 1];
    const char sign = at(tag + 2) == '-' || at(tag + 2) == '+' ? source_[tag + 2] : '\0';
    add_text(before_tag(source_.substr(offset_, tag - offset_), sign, kind != '{', line_start_));
    offset_ = tag;
    if (kind == '#') {
      read_comment();
    } else if (kind == '%' && read_raw(sign)) {
      return;
    } else {
      read_tag(kind == '%', sign);
    }
  }

  void add_text(std::string_view text) {
    if (!text.empty()) add(TokenKind::kText, text);
  }

  // What is left of the text before a tag: without the space that the tag asks to go. Space at the
  // start of a line goes before a block or comment (lstrip_blocks).
  static std::string_view before_tag(std::string_view text, char sign, bool block,
                                     bool line_start) {
    if (sign == '-') return strip(text, std::nullopt, false, true);
    if (sign == '+' || !block) return text;
    const size_t newline = text.rfind('\n');
    const size_t line = newline == text.npos ? 0 : newline + 1;
    if (line == 0 && !line_start) return text;
    return strip(text.substr(line), std::nullopt).empty() ? text.substr(0, line) : text;
  }

  // Ends a tag whose end is at the offset: "-%}" takes the space behind it, "%}" one line end
  // (trim_blocks), "+%}" nothing.
  void end_tag(char sign, bool trims_newline) {
    offset_ += sign == '\0' ? 2 : 3;
    if (sign == '-') {
      skip_space();
    } else if (sign == '\0' && trims_newline && at(offset_) == '\n') {
      ++offset_;
    }
    line_start_ = source_[offset_ - 1] == '\n';
  }

  void read_comment() {
    const size_t close = source_.find("#}", offset_ + 2);
    if (close == source_.npos) fail_at(place_at(offset_), "the comment {{# has no end");
    const char before = source_[close - 1];
    const bool sign = close > offset_ + 2 && (before == '-' || before == '+');
    offset_ = sign ? close - 1 : close;
    end_tag(sign ? before : '\0', true);
  }

  // {% raw %} ... {% endraw %}; false when the tag is another.
  bool read_raw(char sign) {
    const size_t start = offset_;
    if (!skip_word_tag(sign, "raw", false)) {
      offset_ = start;
      return false;
    }
    const size_t text_begin = offset_;
    const bool line_start = line_start_;
    for (size_t from = offset_;;) {
      const size_t tag = source_.find("{%", from);
      if (tag == source_.npos) fail_at(place_at(start), "the tag raw has no endraw");
      const char end_sign = at(tag + 2) == '-' || at(tag + 2) == '+' ? source_[tag + 2] : '\0';
      offset_ = tag;
      if (skip_word_tag(end_sign, "endraw", true)) {
        const size_t after = offset_;
        offset_ = text_begin;
        add_text(
            before_tag(source_.substr(text_begin, tag - text_begin), end_sign, true, line_start));
        offset_ = after;
        return true;
      }
      from = tag + 2;
    }
  }

  // A tag of one word at the offset; on success the offset is behind it.
  bool skip_word_tag(char sign, std::string_view word, bool trims_newline) {
    offset_ += sign == '\0' ? 2 : 3;
    skip_space();
    if (!follows(word)) return false;
    offset_ += word.size();
    skip_space();
    char end_sign = '\0';
    if (follows("-%}") || (trims_newline && follows("+%}"))) end_sign = source_[offset_];
    if (end_sign == '\0' && !follows("%}")) return false;
    end_tag(end_sign, trims_newline);
    return true;
  }

  void read_tag(bool block, char sign) {
    add(block ? TokenKind::kBlockBegin : TokenKind::kOutputBegin, block ? "{%" : "{{");
    const size_t start = offset_;
    offset_ += sign == '\0' ? 2 : 3;
    const std::string_view end = block ? "%}" : "}}";
    std::string open;  // brackets that wait for their partner
    while (true) {
      skip_space();
      if (offset_ >= source_.size()) {
        fail_at(place_at(start), "the tag {} has no end", source_.substr(start, 2));
      }
      if (open.empty()) {
        const char c = source_[offset_];
        const bool signed_end =
            (c == '-' || (c == '+' && block)) && source_.substr(offset_ + 1).starts_with(end);
        if (signed_end || follows(end)) {
          add(block ? TokenKind::kBlockEnd : TokenKind::kOutputEnd, end);
          end_tag(signed_end ? c : '\0', block);
          return;
        }
      }
      read_token(open);
    }
  }

  void read_token(std::string& open) {
    const char c = source_[offset_];
    if (is_digit_char(c)) {
      read_number();
    } else if (is_name_char(c)) {
      size_t end = offset_;
      while (is_name_char(at(end))) ++end;
      add(TokenKind::kName, source_.substr(offset_, end - offset_));
      offset_ = end;
    } else if (c == '"' || c == '\'') {
      read_string(c);
    } else {
      read_operator(open);
    }
  }

  void read_operator(std::string& open) {
    static constexpr std::array<std::string_view, 25> kOperators = {
        "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
        "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ","};
    const auto* found = std::find_if(kOperators.begin(), kOperators.end(),
                                     [&](std::string_view op) { return follows(op); });
    if (found == kOperators.end()) {
      fail_at(
          place_at(offset_), "unexpected character {}",
          string_repr(source_.substr(offset_, first_code_point(source_.substr(offset_)).bytes)));
    }
    const char c = (*found)[0];
    if (c == '(' || c == '[' || c == '{') {
      open += c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
      if (open.empty()) fail_at(place_at(offset_), "unexpected '{}'", c);
      if (open.back() != c) {
        fail_at(place_at(offset_), "unexpected '{}', expected '{}'", c, open.back());
      }
      open.pop_back();
    }
    add(TokenKind::kOperator, *found);
    offset_ += found->size();
  }

  size_t skip_digits(size_t i) const {
    while (is_digit_char(at(i)) || (at(i) == '_' && is_digit_char(at(i + 1)))) ++i;
    return i;
  }

  void read_number() {
    size_t end = skip_digits(offset_);
    bool is_float = false;
    if (at(end) == '.' && is_digit_char(at(end + 1))) {
      is_float = true;
      end = skip_digits(end + 1);
    }
    if ((at(end) | 0x20) == 'e') {
      size_t digits = end + 1;
      if (at(digits) == '+' || at(digits) == '-') ++digits;
      if (is_digit_char(at(digits))) {
        is_float = true;
        end = skip_digits(digits);
      }
    }
    std::string text(source_.substr(offset_, end - offset_));
    std::erase(text, '_');
    if (!is_float && (is_name_char(at(end)) || (text.size() > 1 && text[0] == '0'))) {
      fail_at(place_at(offset_), "numbers such as {} are not supported; write it in plain digits",
              source_.substr(offset_, end + 1 - offset_));
    }
    add(is_float ? TokenKind::kFloat : TokenKind::kInteger, text);
    offset_ = end;
  }

  void read_string(char quote) {
    size_t end = offset_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) fail_at(place_at(offset_), "the string has no end");
    add(TokenKind::kString, unescape(source_.substr(offset_ + 1, end - offset_ - 1)));
    offset_ = end + 1;
  }

  // Python's escapes; what is none stays as it is.
  std::string unescape(std::string_view text) {
    std::string out;
    for (size_t i = 0; i < text.size(); ++i) {
      if (text[i] != '\\' || i + 1 == text.size()) {
        out += text[i];
        continue;
      }
      const char c = text[++i];
      static constexpr std::string_view kNames = "\\'\"abfnrtv", kBytes = "\\'\"\a\b\f\n\r\t\v";
      if (const size_t simple = kNames.find(c); simple != kNames.npos) {
        out += kBytes[simple];
      } else if (c == 'x' || c == 'u' || c == 'U') {
        const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        append_code_point(out, text.substr(i + 1, digits), digits, 16);
        i += digits;
      } else if (c >= '0' && c <= '7') {
        size_t digits = 1;
        while (digits < 3 && i + digits < text.size() && text[i + digits] >= '0' &&
               text[i + digits] <= '7') {
          ++digits;
        }
        append_code_point(out, text.substr(i, digits), digits, 8);
        i += digits - 1;
      } else if (c == 'N') {
        fail_at(place_at(offset_), "characters by name (\\N) are not supported");
      } else if (c != '\n') {
        out += '\\';
        out += c;
      }
    }
    return out;
  }

  void append_code_point(std::string& out, std::string_view digits, size_t count, int base) {
    uint32_t value = 0;
    bool fine = digits.size() == count;
    for (const char c : digits) {
      const bool letter = (c | 0x20) >= 'a' && (c | 0x20) <= 'f';
      fine = fine && (is_digit_char(c) || (letter && base == 16));
      value = value * static_cast<uint32_t>(base) +
              static_cast<uint32_t>(letter ? (c | 0x20) - 'a' + 10 : c - '0');
    }
    if (!fine || value > 0x10FFFF || (value >= 0xD800 && value < 0xE000)) {
      fail_at(place_at(offset_), "the string has an escape that stands for no character");
    }
    append_utf8(out, static_cast<char32_t>(value));
  }

  std::string_view source_;
  size_t offset_ = 0;
  bool line_start_ = true;  // whether the text at the offset starts a line
  size_t counted_ = 0;
  Place counted_place_;
  std::vector<Token> tokens_;
};

// "\r\n" and "\r" are line ends too, and the last one of the file does not count.
std::string normalise_lines(std::string_view source) {
  std::string text;
  text.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      text += source[i];
    } else {
      text += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    }
  }
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

}  // namespace

std::vector<Token> tokenize(std::string_view source) {
  const size_t valid = valid_utf8_prefix(source);
  if (valid != source.size()) {
    fail_at({}, "byte {} is not UTF-8", valid);
  }
  return Lexer(normalise_lines(source)).run();
}

}  // namespace longgen::tokenizer::jinja
