#include "longgen/tokenizer/jinja/text.h"

#include <utf8proc.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>

#include <fmt/format.h>

#include "longgen/tokenizer/utf8.h"

namespace longgen::tokenizer::jinja {
namespace {

bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

// The code point that ends at the end of `text`.
CodePoint last_code_point(std::string_view text) {
  size_t begin = text.size() - 1;
  while (begin > 0 && is_continuation(text[begin])) --begin;
  return first_code_point(text.substr(begin));
}

std::string map_characters(std::string_view text, utf8proc_int32_t (*map)(utf8proc_int32_t),
                           std::string_view sharp_s) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const CodePoint c = first_code_point(text);
    text.remove_prefix(c.bytes);
    if (c.value == 0xDF && !sharp_s.empty()) {
      out += sharp_s;
    } else {
      append_utf8(out, static_cast<char32_t>(map(static_cast<utf8proc_int32_t>(c.value))));
    }
  }
  return out;
}

utf8proc_category_t category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

}  // namespace

CodePoint first_code_point(std::string_view text) {
  utf8proc_int32_t value = 0;
  const auto bytes = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                      static_cast<utf8proc_ssize_t>(text.size()), &value);
  if (bytes <= 0) return {0xFFFD, 1};  // only valid text comes here
  return {static_cast<char32_t>(value), static_cast<size_t>(bytes)};
}

int64_t count_code_points(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return !is_continuation(c); });
}

size_t code_point_offset(std::string_view text, int64_t index) {
  size_t i = 0;
  for (; i < text.size(); ++i) {
    if (!is_continuation(text[i]) && index-- == 0) break;
  }
  return i;
}

bool is_space(char32_t c) {
  if (c < 0x80) return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20);
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_printable(char32_t c) {
  if (c == ' ') return true;
  switch (category(c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
      return false;
    default:
      return true;
  }
}

bool is_alpha(char32_t c) {
  const auto kind = category(c);
  return kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_LO;
}
bool is_digit(char32_t c) { return category(c) == UTF8PROC_CATEGORY_ND; }
bool is_upper(char32_t c) { return utf8proc_isupper(static_cast<utf8proc_int32_t>(c)) != 0; }
bool is_lower(char32_t c) { return utf8proc_islower(static_cast<utf8proc_int32_t>(c)) != 0; }

std::string to_upper(std::string_view text) { return map_characters(text, utf8proc_toupper, "SS"); }
std::string to_lower(std::string_view text) { return map_characters(text, utf8proc_tolower, ""); }

std::string to_title(std::string_view text) {
  std::string out;
  bool inside = false;  // a run of letters with case
  while (!text.empty()) {
    const CodePoint c = first_code_point(text);
    const std::string_view one = text.substr(0, c.bytes);
    text.remove_prefix(c.bytes);
    out += inside ? to_lower(one) : map_characters(one, utf8proc_totitle, "Ss");
    inside = is_upper(c.value) || is_lower(c.value) || category(c.value) == UTF8PROC_CATEGORY_LT;
  }
  return out;
}

std::string capitalize(std::string_view text) {
  if (text.empty()) return "";
  const size_t first = first_code_point(text).bytes;
  return map_characters(text.substr(0, first), utf8proc_totitle, "Ss") +
         to_lower(text.substr(first));
}

std::string_view strip(std::string_view text, std::optional<std::string_view> characters, bool left,
                       bool right) {
  const auto goes = [&](std::string_view one, char32_t value) {
    return characters ? characters->find(one) != std::string_view::npos : is_space(value);
  };
  while (left && !text.empty()) {
    const CodePoint c = first_code_point(text);
    if (!goes(text.substr(0, c.bytes), c.value)) break;
    text.remove_prefix(c.bytes);
  }
  while (right && !text.empty()) {
    const CodePoint c = last_code_point(text);
    if (!goes(text.substr(text.size() - c.bytes), c.value)) break;
    text.remove_suffix(c.bytes);
  }
  return text;
}

size_t find_text(std::string_view text, std::string_view wanted) {
  if (wanted.empty()) return 0;
  const void* at = memmem(text.data(), text.size(), wanted.data(), wanted.size());
  if (at == nullptr) return std::string_view::npos;
  return static_cast<size_t>(static_cast<const char*>(at) - text.data());
}

size_t rfind_text(std::string_view text, std::string_view wanted) {
  const std::string backwards(text.rbegin(), text.rend());
  const size_t at = find_text(backwards, std::string(wanted.rbegin(), wanted.rend()));
  return at == std::string_view::npos ? at : text.size() - at - wanted.size();
}

std::vector<std::string_view> split(std::string_view text,
                                    std::optional<std::string_view> separator, int64_t limit) {
  std::vector<std::string_view> parts;
  if (separator) {
    for (; limit != 0; --limit) {
      const size_t at = find_text(text, *separator);
      if (at == text.npos) break;
      parts.push_back(text.substr(0, at));
      text.remove_prefix(at + separator->size());
    }
    parts.push_back(text);
    return parts;
  }
  text = strip(text, std::nullopt, true, false);
  for (; !text.empty(); --limit) {
    if (limit == 0) {
      parts.push_back(text);
      break;
    }
    size_t end = 0;
    while (end < text.size()) {
      const CodePoint c = first_code_point(text.substr(end));
      if (is_space(c.value)) break;
      end += c.bytes;
    }
    parts.push_back(text.substr(0, end));
    text = strip(text.substr(end), std::nullopt, true, false);
  }
  return parts;
}

std::vector<std::string_view> split_right(std::string_view text,
                                          std::optional<std::string_view> separator,
                                          int64_t limit) {
  std::vector<std::string_view> parts;
  if (separator) {
    // Backwards once, so that every part is found in time of its own length.
    const std::string backwards(text.rbegin(), text.rend());
    const std::string mark(separator->rbegin(), separator->rend());
    std::string_view rest = backwards;
    for (; limit != 0; --limit) {
      const size_t at = find_text(rest, mark);
      if (at == rest.npos) break;
      parts.push_back(text.substr(rest.size() - at, at));
      rest.remove_prefix(at + mark.size());
    }
    parts.push_back(text.substr(0, rest.size()));
  } else {
    text = strip(text, std::nullopt, false, true);
    for (; !text.empty(); --limit) {
      if (limit == 0) {
        parts.push_back(text);
        break;
      }
      size_t begin = text.size();
      while (begin > 0) {
        const CodePoint c = last_code_point(text.substr(0, begin));
        if (is_space(c.value)) break;
        begin -= c.bytes;
      }
      parts.push_back(text.substr(begin));
      text = strip(text.substr(0, begin), std::nullopt, false, true);
    }
  }
  std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  size_t i = 0;
  while (!text.empty()) {
    if (i == text.size()) {
      lines.push_back(text);
      break;
    }
    const CodePoint c = first_code_point(text.substr(i));
    const bool ends = (c.value >= 10 && c.value <= 13) || (c.value >= 0x1C && c.value <= 0x1E) ||
                      c.value == 0x85 || c.value == 0x2028 || c.value == 0x2029;
    if (!ends) {
      i += c.bytes;
      continue;
    }
    size_t end = i + c.bytes;
    if (c.value == '\r' && end < text.size() && text[end] == '\n') ++end;
    lines.push_back(text.substr(0, keep_ends ? end : i));
    text.remove_prefix(end);
    i = 0;
  }
  return lines;
}

std::string float_repr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[64];
  auto end = std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific);
  std::string text(buffer, end.ptr);
  const int exponent = std::atoi(text.c_str() + text.find('e') + 1);
  // Python writes an exponent below 1e-4 and from 1e16 on.
  if (value != 0 && (exponent < -4 || exponent >= 16)) return text;
  end = std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::fixed);
  std::string plain(buffer, end.ptr);
  if (plain.find('.') == plain.npos) plain += ".0";
  return plain;
}

std::string string_repr(std::string_view text) {
  const bool doubled = text.find('\'') != text.npos && text.find('"') == text.npos;
  const char quote = doubled ? '"' : '\'';
  std::string out(1, quote);
  while (!text.empty()) {
    const CodePoint c = first_code_point(text);
    const std::string_view one = text.substr(0, c.bytes);
    text.remove_prefix(c.bytes);
    if (c.value == '\n') {
      out += "\\n";
    } else if (c.value == '\r') {
      out += "\\r";
    } else if (c.value == '\t') {
      out += "\\t";
    } else if (c.value == '\\' || c.value == static_cast<char32_t>(quote)) {
      out += '\\';
      out += one;
    } else if (is_printable(c.value)) {
      out += one;
    } else if (c.value < 0x100) {
      out += fmt::format("\\x{:02x}", static_cast<uint32_t>(c.value));
    } else if (c.value < 0x10000) {
      out += fmt::format("\\u{:04x}", static_cast<uint32_t>(c.value));
    } else {
      out += fmt::format("\\U{:08x}", static_cast<uint32_t>(c.value));
    }
  }
  return out + quote;
}

std::optional<int64_t> parse_integer(std::string_view text, int base) {
  text = strip(text, std::nullopt);
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  if (text.size() > 2 && text[0] == '0') {
    const char mark = static_cast<char>(text[1] | 0x20);
    if ((base == 16 && mark == 'x') || (base == 8 && mark == 'o') || (base == 2 && mark == 'b')) {
      text.remove_prefix(2);
      if (text.starts_with('_')) text.remove_prefix(1);
    }
  }
  std::string digits = negative ? "-" : "";
  for (size_t i = 0; i < text.size(); ++i) {
    // One underscore between digits.
    if (text[i] == '_' && i > 0 && i + 1 < text.size() && text[i - 1] != '_') continue;
    if (text[i] == '_' || text[i] == '-') return std::nullopt;
    digits += text[i];
  }
  int64_t value = 0;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  return value;
}

std::optional<double> parse_float(std::string_view text) {
  text = strip(text, std::nullopt);
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  std::string digits;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto digit = [&](size_t at) {
      return at < text.size() && text[at] >= '0' && text[at] <= '9';
    };
    if (text[i] == '_' && i > 0 && digit(i - 1) && digit(i + 1)) continue;
    digits += text[i];
  }
  if (digits.starts_with('-')) return std::nullopt;
  double value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error == std::errc::result_out_of_range) {
    value = std::strtod(digits.c_str(), nullptr);  // infinity or zero, as in Python
  } else if (error != std::errc()) {
    return std::nullopt;
  }
  if (end != digits.data() + digits.size()) return std::nullopt;
  return negative ? -value : value;
}

}  // namespace longgen::tokenizer::jinja
