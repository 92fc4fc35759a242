// The one syntax of regular expressions in terms of the other.
#pragma once

#include <string>

namespace longgen::tokenizer {

// Oniguruma's expression (Ruby's syntax) as PCRE2 is to read it. Throws Error naming `where` and
// the expression when it holds something that is not in both, or that each reads in its own way.
std::string oniguruma_to_pcre(const std::string& pattern, const std::string& where);

}  // namespace longgen::tokenizer
