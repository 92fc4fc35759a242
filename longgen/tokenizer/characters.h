// Properties of characters, and walks over the characters of a text.
#pragma once

#include <cstddef>
#include <string_view>

#include "longgen/tokenizer/utf8.h"

namespace longgen::tokenizer {

// The code point of a character that is valid UTF-8.
char32_t code_point(std::string_view character);

// Calls visit(code point, its bytes) for the characters of a text that is valid UTF-8.
template <typename Visit>
void for_each_character(std::string_view text, Visit&& visit) {
  while (!text.empty()) {
    const std::string_view bytes = text.substr(0, utf8_step(text).length);
    visit(code_point(bytes), bytes);
    text.remove_prefix(bytes.size());
  }
}

bool is_white_space(char32_t c);  // Unicode's White_Space
bool is_mark(char32_t c);         // categories Mn, Mc, Me
// What regular expressions call a word character (Unicode TR18, annex C): alphabetic, marks,
// decimal digits, connectors, joiners.
bool is_word(char32_t c);

// Bytes of the white space that a text starts, or ends, with. Bytes that are not UTF-8 are none.
size_t white_space_prefix(std::string_view text);
size_t white_space_suffix(std::string_view text);

// Whether the first, or last, character of a text is a word character.
bool starts_with_word(std::string_view text);
bool ends_with_word(std::string_view text);

}  // namespace longgen::tokenizer
