// Generated documents that teach a small model to look things up far back: facts planted in filler
// and asked for later, repeated strings, lists of pairs. Every document has an exact number of
// bytes, so that isolated packing leaves no padding under a byte-level tokenizer.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "longgen/base/rng.h"

namespace longgen::data {

// " The pass key is 58213. Remember it. 58213 is the pass key."
std::string key_statement(std::string_view kind, std::string_view digits);
// " What is the pass key? The pass key is"; the answer is " 58213."
std::string key_question(std::string_view kind);
inline constexpr std::string_view kPassKey = "pass key";

// Typographic quotes, dashes and ellipses become ASCII; carriage returns and all other bytes beyond
// ASCII are dropped. Any byte offset of the result is then a character's.
std::string to_ascii(std::string_view text);

// Draws documents from `books` (ASCII text, each longer than the documents asked for).
class SyntheticText {
 public:
  // The books are referred to. Throws Error when there is none or one is shorter than 8 KiB.
  SyntheticText(std::span<const std::string> books, uint64_t seed, uint64_t stream);

  // A window of a book.
  std::string plain(int64_t bytes);
  // One fact or several, stated in filler and asked for at the end or at a later place.
  std::string needles(int64_t bytes);
  // 30 % repeated strings, 25 % lists of pairs, 45 % needles.
  std::string exercise(int64_t bytes);

 private:
  struct Insert {
    double place;  // in the filler, 0 to 1
    std::string text;
  };

  int64_t between(int64_t low, int64_t high);  // both included
  const std::string& book();
  std::string characters(std::string_view alphabet, int64_t count);
  std::string digits();
  std::string statement(std::string_view kind, std::string_view digits, int64_t form);
  std::string assemble(int64_t bytes, std::vector<Insert> inserts, const std::string& ending);
  std::string single(int64_t bytes);
  std::string several(int64_t bytes, int64_t most);
  std::string dense(int64_t bytes);
  std::string repeated(int64_t bytes);
  std::string pairs(int64_t bytes);

  std::span<const std::string> books_;
  Rng rng_;
};

}  // namespace longgen::data
