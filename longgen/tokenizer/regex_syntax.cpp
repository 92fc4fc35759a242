#include "longgen/tokenizer/regex_syntax.h"

#include <array>
#include <string_view>
#include <utility>

#include "longgen/base/error.h"

namespace longgen::tokenizer {
namespace {

// Unicode's White_Space. PCRE2's \s has U+180E too, which left it in Unicode 6.3.
constexpr std::string_view kSpaces = R"(\p{Z}\x{9}-\x{D}\x{85})";
// Oniguruma's word characters: Alphabetic (letters, letter numbers, circled letters; its marks are
// marks), Mark, Decimal_Number, Connector_Punctuation.
constexpr std::string_view kWords =
    R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{24B6}-\x{24E9}\x{1F130}-\x{1F149}\x{1F150}-\x{1F169}\x{1F170}-\x{1F189})";

bool is_alnum(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

class Translator {
 public:
  Translator(const std::string& pattern, const std::string& where)
      : pattern_(pattern), where_(where) {}

  std::string run() {
    while (at_ < pattern_.size()) {
      if (pattern_[at_] == '\\') {
        escape();
      } else if (in_class_) {
        class_character();
      } else {
        character();
      }
    }
    return std::move(result_);
  }

 private:
  std::string_view rest() const { return std::string_view(pattern_).substr(at_); }

  [[noreturn]] void refuse(std::string_view what) const {
    fail("{}: the expression '{}' has '{}'{}, which is not supported", where_, pattern_, what,
         in_class_ ? " inside a character class" : "");
  }

  void copy(size_t count) {
    result_ += rest().substr(0, count);
    at_ += count;
  }
  void put(std::string_view text, size_t taken) {
    result_ += text;
    at_ += taken;
  }

  void set(std::string_view members, bool negated) {
    if (in_class_ && negated) refuse(rest().substr(0, 2));
    if (in_class_) return put(members, 2);
    result_ += negated ? "[^" : "[";
    put(members, 2);
    result_ += ']';
  }

  void escape() {
    if (rest().size() < 2) refuse("\\");
    const char c = rest()[1];
    if (c == 's' || c == 'S') return set(kSpaces, c == 'S');
    if (c == 'w' || c == 'W') return set(kWords, c == 'W');
    if (c == 'd') return put(R"(\p{Nd})", 2);
    if (c == 'D') return put(R"(\P{Nd})", 2);
    if (c == 'v') return put(R"(\x{B})", 2);
    if (c == 'p' || c == 'P') return property();
    if (c == 'x' || c == 'u') return code_point();
    const bool anchor = !in_class_ && std::string_view("AzZ").find(c) != std::string_view::npos;
    const bool control = std::string_view("nrtfae").find(c) != std::string_view::npos;
    if (is_alnum(c) && !anchor && !control) refuse(rest().substr(0, 2));
    copy(2);
  }

  // \p{Name} of a general category or a script, the long names of the categories too.
  void property() {
    static constexpr std::array<std::pair<std::string_view, std::string_view>, 6> kLong = {
        {{"{Letter}", "{L}"},
         {"{Mark}", "{M}"},
         {"{Number}", "{N}"},
         {"{Punctuation}", "{P}"},
         {"{Symbol}", "{S}"},
         {"{Separator}", "{Z}"}}};
    const size_t end = rest().find('}');
    if (rest().size() < 3 || rest()[2] != '{' || end == std::string_view::npos)
      refuse(rest().substr(0, 2));
    std::string_view name = rest().substr(2, end - 1);
    for (const auto& [whole, brief] : kLong) {
      if (name == whole) name = brief;
    }
    result_ += rest().substr(0, 2);
    put(name, end + 1);
  }

  // \x{H...} and \uHHHH; \xHH is a byte to one library and a character to the other.
  void code_point() {
    static constexpr std::string_view kHex = "0123456789abcdefABCDEF";
    if (rest()[1] == 'u') {
      const std::string_view digits = rest().substr(2, 4);
      if (digits.size() < 4 || digits.find_first_not_of(kHex) != digits.npos)
        refuse(rest().substr(0, 6));
      result_ += "\\x{";
      result_ += digits;
      return put("}", 6);
    }
    if (rest().size() < 3 || rest()[2] != '{') refuse(rest().substr(0, 4));
    copy(3);
  }

  void class_character() {
    if (rest()[0] == '[' || rest().starts_with("&&")) refuse(rest().substr(0, 1));
    in_class_ = rest()[0] != ']';
    copy(1);
  }

  void character() {
    const char c = rest()[0];
    if (c == '[') {
      open_class();
    } else if (c == '(') {
      open_group();
    } else if (c == '{') {
      interval();
    } else {
      copy(1);
    }
  }

  void open_class() {
    const bool negated = rest().starts_with("[^");
    copy(negated ? 2 : 1);
    in_class_ = true;
    if (rest().starts_with("]")) refuse("]");
  }

  // Groups that capture nothing by name and look-arounds; of the options only i.
  void open_group() {
    if (rest().starts_with("(*")) refuse("(*");
    if (!rest().starts_with("(?")) return copy(1);
    for (const std::string_view known :
         {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?-i:", "(?i)", "(?-i)"}) {
      if (rest().starts_with(known)) return copy(known.size());
    }
    refuse(rest().substr(0, 3));
  }

  // {n}, {n,} and {n,m}, greedy: what follows them means something else to each library.
  void interval() {
    static constexpr std::string_view kDigits = "0123456789";
    const size_t end = rest().find_first_not_of("0123456789,", 1);
    const bool is_interval = end != std::string_view::npos && rest()[end] == '}' && end > 1;
    if (!is_interval) return copy(1);
    const std::string_view inside = rest().substr(1, end - 1);
    const size_t comma = inside.find(',');
    const bool plain = inside.find_first_of(kDigits) == 0 &&
                       (comma == inside.npos || inside.find(',', comma + 1) == inside.npos);
    if (!plain) refuse(rest().substr(0, end + 1));
    if (end + 1 < rest().size() && (rest()[end + 1] == '+' || rest()[end + 1] == '?'))
      refuse(rest().substr(0, end + 2));
    copy(end + 1);
  }

  const std::string& pattern_;
  const std::string& where_;
  std::string result_;
  size_t at_ = 0;
  bool in_class_ = false;
};

}  // namespace

std::string oniguruma_to_pcre(const std::string& pattern, const std::string& where) {
  return Translator(pattern, where).run();
}

}  // namespace longgen::tokenizer
