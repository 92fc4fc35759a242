#include "longgen/base/html.h"

namespace longgen {

std::string escape_html(std::string_view text, std::string_view double_quote) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '"':
        out += double_quote;
        break;
      default:
        out += c;
    }
  }
  return out;
}

}  // namespace longgen
