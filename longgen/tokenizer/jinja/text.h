// Python's operations on str, over UTF-8. Indices count code points.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace longgen::tokenizer::jinja {

// The code point at the start of valid UTF-8, and its bytes.
struct CodePoint {
  char32_t value;
  size_t bytes;
};
CodePoint first_code_point(std::string_view text);
int64_t count_code_points(std::string_view text);
// Offset of the byte where code point `index` starts (the size when it is the end or beyond).
size_t code_point_offset(std::string_view text, int64_t index);

bool is_space(char32_t c);      // str.isspace of one character
bool is_printable(char32_t c);  // str.isprintable
bool is_alpha(char32_t c);
bool is_digit(char32_t c);  // decimal digits
bool is_upper(char32_t c);
bool is_lower(char32_t c);

// One character to one (and the German sharp s to two): Unicode's other characters that grow in
// another case keep their simple mapping.
std::string to_upper(std::string_view text);
std::string to_lower(std::string_view text);
std::string to_title(std::string_view text);    // str.title
std::string capitalize(std::string_view text);  // the first character up, the rest down

// Both ends unless told otherwise; white space where `characters` is absent.
std::string_view strip(std::string_view text, std::optional<std::string_view> characters,
                       bool left = true, bool right = true);

// limit < 0: none. `separator` absent: runs of white space, none at the ends.
std::vector<std::string_view> split(std::string_view text,
                                    std::optional<std::string_view> separator, int64_t limit);
std::vector<std::string_view> split_right(std::string_view text,
                                          std::optional<std::string_view> separator, int64_t limit);
std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends);

// As std::string_view::find and rfind, in linear time whatever the texts.
size_t find_text(std::string_view text, std::string_view wanted);
size_t rfind_text(std::string_view text, std::string_view wanted);

// repr() of a float: the shortest digits that read back as it.
std::string float_repr(double value);
// repr() of a str, appended piece by piece.
std::string string_repr(std::string_view text);

// int(text, base) and float(text).
std::optional<int64_t> parse_integer(std::string_view text, int base);
std::optional<double> parse_float(std::string_view text);

}  // namespace longgen::tokenizer::jinja
