#include "longgen/tokenizer/utf8.h"

#include <array>
#include <cstdint>
#include <cstring>

namespace longgen::tokenizer {
namespace {

struct ByteAlphabet {
  std::array<char32_t, 256> character{};
  std::array<int16_t, 512> byte{};

  constexpr ByteAlphabet() {
    byte.fill(-1);
    char32_t next = 256;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      character[b] = printable ? static_cast<char32_t>(b) : next++;
      byte[character[b]] = static_cast<int16_t>(b);
    }
  }
};

constexpr ByteAlphabet kByteAlphabet;

// Bounds of a character's second byte, which is where overlong forms, surrogates and too large code
// points show (Unicode 15, table 3-7).
struct SecondByte {
  uint8_t low = 0x80, high = 0xBF;
};

SecondByte second_byte_bounds(uint8_t lead) {
  switch (lead) {
    case 0xE0:
      return {0xA0, 0xBF};
    case 0xED:
      return {0x80, 0x9F};
    case 0xF0:
      return {0x90, 0xBF};
    case 0xF4:
      return {0x80, 0x8F};
    default:
      return {};
  }
}

}  // namespace

Utf8Step utf8_step(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {Utf8Kind::kCharacter, 1};
  const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4) return {Utf8Kind::kInvalid, 1};
  SecondByte bounds = second_byte_bounds(lead);
  for (size_t i = 1; i < length; ++i, bounds = {}) {
    if (i == text.size()) return {Utf8Kind::kIncomplete, i};
    if (byte(i) < bounds.low || byte(i) > bounds.high) return {Utf8Kind::kInvalid, i};
  }
  return {Utf8Kind::kCharacter, length};
}

size_t valid_utf8_prefix(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    if (i + 8 <= text.size()) {  // eight ASCII bytes at once
      uint64_t word;
      std::memcpy(&word, text.data() + i, 8);
      if ((word & 0x8080808080808080u) == 0) {
        i += 8;
        continue;
      }
    }
    const Utf8Step step = utf8_step(text.substr(i));
    if (step.kind != Utf8Kind::kCharacter) break;
    i += step.length;
  }
  return i;
}

std::string replace_invalid_utf8(std::string_view text) {
  std::string replaced;
  while (!text.empty()) {
    const size_t valid = valid_utf8_prefix(text);
    replaced += text.substr(0, valid);
    text.remove_prefix(valid);
    if (text.empty()) break;
    append_utf8(replaced, 0xFFFD);
    text.remove_prefix(utf8_step(text).length);
  }
  return replaced;
}

void append_utf8(std::string& text, char32_t c) {
  const auto put = [&](char32_t byte) { text += static_cast<char>(byte); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | (c >> 6));
    put(0x80 | (c & 63));
  } else if (c < 0x10000) {
    put(0xE0 | (c >> 12));
    put(0x80 | ((c >> 6) & 63));
    put(0x80 | (c & 63));
  } else {
    put(0xF0 | (c >> 18));
    put(0x80 | ((c >> 12) & 63));
    put(0x80 | ((c >> 6) & 63));
    put(0x80 | (c & 63));
  }
}

std::string to_byte_level(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) append_utf8(text, kByteAlphabet.character[static_cast<uint8_t>(c)]);
  return text;
}

bool from_byte_level(std::string_view text, std::string& bytes) {
  const size_t before = bytes.size();
  for (size_t i = 0; i < text.size();) {
    // The alphabet ends below U+0200: one byte, or two.
    const uint8_t lead = static_cast<uint8_t>(text[i]);
    size_t length = 1;
    char32_t character = lead;
    if (lead >= 0x80) {
      length = 2;
      const bool fits = lead >= 0xC2 && lead <= 0xC7 && i + 1 < text.size();
      character = fits ? ((lead & 31u) << 6) | (static_cast<uint8_t>(text[i + 1]) & 63u) : 0;
    }
    const int16_t byte = kByteAlphabet.byte[character];
    if (byte < 0) {
      bytes.resize(before);
      return false;
    }
    bytes += static_cast<char>(byte);
    i += length;
  }
  return true;
}

}  // namespace longgen::tokenizer
