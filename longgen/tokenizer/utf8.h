// UTF-8 of text that may be damaged, and the byte alphabet of byte-level BPE.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace longgen::tokenizer {

// What stands at the start of a text.
enum class Utf8Kind { kCharacter, kInvalid, kIncomplete };

struct Utf8Step {
  Utf8Kind kind;
  // Bytes of the character; of the longest invalid part that one U+FFFD replaces (Unicode 15,
  // section 3.9, "maximal subpart"); or of the unfinished character, which ends the text.
  size_t length;
};

// Looks at the first character of `text`, which must not be empty. Surrogates, overlong forms and
// code points above U+10FFFF are invalid.
Utf8Step utf8_step(std::string_view text);

// Length of the longest prefix that is valid UTF-8.
size_t valid_utf8_prefix(std::string_view text);

// Calls valid(part) and invalid(part) for the alternating runs of `text`, in order, none empty.
template <typename Valid, typename Invalid>
void for_each_utf8_run(std::string_view text, Valid&& valid, Invalid&& invalid) {
  while (!text.empty()) {
    const size_t good = valid_utf8_prefix(text);
    if (good > 0) valid(text.substr(0, good));
    text.remove_prefix(good);
    size_t bad = 0;
    while (bad < text.size()) {
      const Utf8Step step = utf8_step(text.substr(bad));
      if (step.kind == Utf8Kind::kCharacter) break;
      bad += step.length;
    }
    if (bad > 0) invalid(text.substr(0, bad));
    text.remove_prefix(bad);
  }
}

// The text with U+FFFD for every invalid part.
std::string replace_invalid_utf8(std::string_view text);

// Appends the UTF-8 of a code point.
void append_utf8(std::string& text, char32_t code_point);

// GPT-2's byte alphabet: every byte as one printable character (openai/gpt-2 src/encoder.py,
// bytes_to_unicode): '!'..'~', U+00A1..U+00AC and U+00AE..U+00FF stand for themselves, the others
// for U+0100 onwards in order.
std::string to_byte_level(std::string_view bytes);

// Appends the bytes that `text` stands for; false (and nothing appended) when a character of it is
// not of the alphabet.
bool from_byte_level(std::string_view text, std::string& bytes);

}  // namespace longgen::tokenizer
