// Splits a template into text and tags, and tags into tokens, as Jinja does with trim_blocks and
// lstrip_blocks.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "longgen/tokenizer/jinja/ast.h"

namespace longgen::tokenizer::jinja {

enum class TokenKind : uint8_t {
  kText,         // between tags
  kOutputBegin,  // {{
  kOutputEnd,    // }}
  kBlockBegin,   // {%
  kBlockEnd,     // %}
  kName,
  kString,  // the text it stands for
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind;
  std::string text;
  Place place;
};

// Throws SyntaxError.
std::vector<Token> tokenize(std::string_view source);

// What the template's text is wrong in, and where.
class SyntaxError : public Error {
 public:
  SyntaxError(Place place, const std::string& message) : Error(message), place(place) {}
  Place place;
};

template <typename... Args>
[[noreturn]] void fail_at(Place place, fmt::format_string<Args...> format, Args&&... args) {
  throw SyntaxError(place, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace longgen::tokenizer::jinja
