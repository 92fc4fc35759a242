#pragma once

#include <string>
#include <string_view>

namespace longgen {

// Text for HTML, in and outside of attributes: &, <, > and both quotes as references, of which the
// double quote has two usual ones.
std::string escape_html(std::string_view text, std::string_view double_quote = "&#34;");

}  // namespace longgen
