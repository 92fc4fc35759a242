#include "longgen/tokenizer/characters.h"

#include <utf8proc.h>

#include <algorithm>

namespace longgen::tokenizer {
namespace {

utf8proc_category_t category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

// The last character of a text, empty when it does not end in a whole one.
std::string_view last_character(std::string_view text) {
  for (size_t length = 1; length <= std::min<size_t>(4, text.size()); ++length) {
    const std::string_view tail = text.substr(text.size() - length);
    const Utf8Step step = utf8_step(tail);
    if (step.kind == Utf8Kind::kCharacter && step.length == length) return tail;
  }
  return {};
}

std::string_view first_character(std::string_view text) {
  if (text.empty()) return {};
  const Utf8Step step = utf8_step(text);
  return step.kind == Utf8Kind::kCharacter ? text.substr(0, step.length) : std::string_view();
}

}  // namespace

char32_t code_point(std::string_view character) {
  const auto lead = static_cast<uint8_t>(character[0]);
  if (character.size() == 1) return lead;
  char32_t c = lead & (0xFFu >> (character.size() + 1));
  for (const char byte : character.substr(1)) c = c << 6 | (static_cast<uint8_t>(byte) & 63u);
  return c;
}

bool is_white_space(char32_t c) {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool is_mark(char32_t c) {
  const auto kind = category(c);
  return kind == UTF8PROC_CATEGORY_MN || kind == UTF8PROC_CATEGORY_MC ||
         kind == UTF8PROC_CATEGORY_ME;
}

bool is_word(char32_t c) {
  switch (category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:  // circled and squared letters, the joiners
      return (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
             (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189) || c == 0x200C ||
             c == 0x200D;
  }
}

size_t white_space_prefix(std::string_view text) {
  size_t count = 0;
  for (;;) {
    const std::string_view character = first_character(text.substr(count));
    if (character.empty() || !is_white_space(code_point(character))) return count;
    count += character.size();
  }
}

size_t white_space_suffix(std::string_view text) {
  size_t count = 0;
  for (;;) {
    const std::string_view character = last_character(text.substr(0, text.size() - count));
    if (character.empty() || !is_white_space(code_point(character))) return count;
    count += character.size();
  }
}

bool starts_with_word(std::string_view text) {
  const std::string_view character = first_character(text);
  return !character.empty() && is_word(code_point(character));
}

bool ends_with_word(std::string_view text) {
  const std::string_view character = last_character(text);
  return !character.empty() && is_word(code_point(character));
}

}  // namespace longgen::tokenizer
