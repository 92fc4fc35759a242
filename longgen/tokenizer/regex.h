// Regular expressions as the `tokenizers` library reads them (Oniguruma, Ruby's syntax, Unicode),
// run by PCRE2.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace longgen::tokenizer {

class Regex {
 public:
  // Throws Error naming `where` (file and field), the expression and the place in it: not valid, or
  // something that the two libraries read differently. `\s`, `\w`, `\d` are Unicode's; `^` and `$`
  // stand at the ends of lines.
  Regex(const std::string& pattern, std::string where);
  ~Regex();
  Regex(Regex&&) noexcept;

  // The expression that matches `text` and nothing else.
  static std::string quoted(std::string_view text);

  // What matching needs besides the expression; for any expression, one thread at a time.
  class Scratch {
   public:
    Scratch();
    ~Scratch();
    Scratch(const Scratch&) = delete;

   private:
    friend class Regex;
    struct Data;
    std::unique_ptr<Data> data_;
  };

  struct Range {
    size_t begin = 0, end = 0;
  };

  // Calls part(range, is_match) for the matches in `text`, which must be valid UTF-8, and for what
  // lies between them, in order; together they are the text. A match may be empty, but not where
  // the match before it ended. Throws Error when the expression needs too much work.
  template <typename Part>
  void cut(std::string_view text, Scratch& scratch, Part&& part) const {
    size_t done = 0, from = 0;
    std::optional<size_t> last_end;
    while (const auto match = find(text, from, last_end, scratch)) {
      if (done < match->begin) part(Range{done, match->begin}, false);
      part(*match, true);
      done = from = match->end;
      last_end = match->end;
    }
    if (done < text.size()) part(Range{done, text.size()}, false);
  }

 private:
  // The first match at or behind `from`, but no empty one at `not_empty_at`.
  std::optional<Range> find(std::string_view text, size_t from, std::optional<size_t> not_empty_at,
                            Scratch& scratch) const;

  struct Code;
  std::unique_ptr<Code> code_;
  std::string pattern_, where_;
};

}  // namespace longgen::tokenizer
