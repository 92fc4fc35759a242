#include "longgen/eval/needle_template.h"

#include <set>

#include "longgen/base/error.h"

namespace longgen::eval {
namespace {

constexpr std::string_view kDigits = "0123456789";

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

// Lower-case words without punctuation around them.
std::set<std::string> words_of(std::string_view text) {
  constexpr std::string_view kPunctuation = ".,;:!?\"'()";
  std::set<std::string> words;
  std::string word;
  const auto end_word = [&] {
    const size_t begin = word.find_first_not_of(kPunctuation);
    if (begin != std::string::npos) {
      words.insert(word.substr(begin, word.find_last_not_of(kPunctuation) - begin + 1));
    }
    word.clear();
  };
  for (const char c : text) {
    if (c == ' ' || c == '\n' || c == '\t' || c == '\r') {
      end_word();
    } else {
      word += lower(c);
    }
  }
  end_word();
  return words;
}

}  // namespace

std::string fill_in(std::string_view text, std::string_view key) {
  constexpr std::string_view kMark = "{key}";
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t mark = text.find(kMark, at);
    out += text.substr(at, mark == std::string_view::npos ? mark : mark - at);
    if (mark == std::string_view::npos) break;
    out += key;
    at = mark + kMark.size();
  }
  return out;
}

std::string NeedleTemplate::make_key(Rng& rng) const {
  switch (key) {
    case NeedleKey::kUpTo50000:
      return std::to_string(rng.below(50000) + 1);
    case NeedleKey::kFiveDigits:
      return fmt::format("{:05}", rng.below(100000));
    case NeedleKey::kNone:
      break;
  }
  return "";
}

double NeedleTemplate::rate(std::string_view output, std::string_view the_key) const {
  if (score == NeedleScore::kDigits) {
    const size_t begin = output.find_first_of(kDigits);
    if (begin == std::string_view::npos) return 0;
    const size_t end = output.find_first_not_of(kDigits, begin);
    return output.substr(begin, end == std::string_view::npos ? end : end - begin) == the_key ? 1
                                                                                              : 0;
  }
  const std::set<std::string> expected = words_of(fill_in(answer, the_key)),
                              found = words_of(output);
  if (expected.empty()) return 0;
  int64_t hits = 0;
  for (const std::string& word : expected) hits += found.contains(word) ? 1 : 0;
  return static_cast<double>(hits) / static_cast<double>(expected.size());
}

const std::vector<NeedleTemplate>& passkey_templates() {
  static const std::vector<NeedleTemplate> templates = {
      {.name = "landmark",
       .prefix = "There is an important info hidden inside a lot of irrelevant text. Find it and "
                 "memorize them. I will quiz you about the important information there.\n",
       .needle = "\nThe pass key is {key}. Remember it. {key} is the pass key.\n",
       .question = "\nWhat is the pass key? The pass key is",
       .answer = " {key}.",
       .key = NeedleKey::kUpTo50000,
       .place = NeedlePlace::kExact,
       .restart_haystack = true,
       .max_new_tokens = 10},
      {.name = "statement",
       .needle = " The pass key is {key}. Remember it. {key} is the pass key.",
       .question = " What is the pass key? The pass key is",
       .answer = " {key}.",
       .key = NeedleKey::kFiveDigits,
       .place = NeedlePlace::kNextSentence},
  };
  return templates;
}

const std::vector<NeedleTemplate>& needle_templates() {
  static const std::vector<NeedleTemplate> templates = {
      {.name = "number",
       .prefix = "This is a very long story book: <book> ",
       .needle = "\nThe pass key is {key}. Remember it. {key} is the pass key.\n",
       .question = " </book>.\n Based on the content of the book, Question: What is the pass key?\n"
                   "Answer: The pass key is",
       .answer = " {key}.",
       .key = NeedleKey::kFiveDigits,
       .max_new_tokens = 16},
      {.name = "sentence",
       .prefix = "This is a very long story book: <book> ",
       .needle =
           "\nThe best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on "
           "a sunny day.\n",
       .question =
           " </book>.\n Based on the content of the book, Question: What is the best thing to "
           "do in San Francisco?\nAnswer:",
       .answer = " eat a sandwich and sit in Dolores Park on a sunny day.",
       .key = NeedleKey::kNone,
       .score = NeedleScore::kWords,
       .max_new_tokens = 50},
  };
  return templates;
}

const NeedleTemplate& find_template(const std::vector<NeedleTemplate>& templates,
                                    std::string_view name) {
  std::string known;
  for (const NeedleTemplate& t : templates) {
    if (t.name == name) return t;
    known += (known.empty() ? "" : ", ") + t.name;
  }
  fail_usage("unknown form \"{}\"; use one of: {}", name, known);
}

}  // namespace longgen::eval
