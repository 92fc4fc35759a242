// The words of a retrieval task, as data: what is hidden in a haystack, what is asked, what is
// right.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "longgen/base/rng.h"

namespace longgen::eval {

enum class NeedleKey : uint8_t {
  kNone,        // the needle is always the same
  kUpTo50000,   // 1 to 50000, without leading zeros
  kFiveDigits,  // 00000 to 99999, always five digits
};

enum class NeedleScore : uint8_t {
  kDigits,  // 1 when the first run of digits in the output is the key, else 0
  kWords,   // the share of the answer's distinct words that the output holds
};

// Where the needle goes once its depth has given a place in the haystack.
enum class NeedlePlace : uint8_t {
  kExact,         // there, in the middle of a word if need be
  kSentenceEnd,   // behind the nearest full stop before it
  kNextSentence,  // behind the next full stop within 200 bytes, else before the next space within
                  // 40
};

// The prompt is prefix + haystack (with the needle in it) + question; "{key}" in needle, question
// and answer stands for the key.
struct NeedleTemplate {
  std::string name;
  std::string prefix, needle, question;
  std::string answer;  // what a perfect model goes on with
  NeedleKey key = NeedleKey::kFiveDigits;
  NeedleScore score = NeedleScore::kDigits;
  NeedlePlace place = NeedlePlace::kSentenceEnd;
  // The haystack starts again behind the needle instead of going on.
  bool restart_haystack = false;
  // Tokens generated and kept free within the length; 0: those of the answer.
  int64_t max_new_tokens = 0;

  std::string make_key(Rng& rng) const;  // "" for kNone
  // In [0, 1].
  double rate(std::string_view output, std::string_view key) const;
};

// Replaces every "{key}".
std::string fill_in(std::string_view text, std::string_view key);

// The built-in forms of passkey: "landmark" (epfml/landmark-attention llama/run_test.py),
// "statement" (the same sentences in running text, always five digits, nothing around the
// haystack).
const std::vector<NeedleTemplate>& passkey_templates();
// Those of needle-in-a-haystack for base models: "sentence" (FranxYao/Long-Context-Data-Engineering
// eval/needle), "number" (the same frame around a pass key).
const std::vector<NeedleTemplate>& needle_templates();
// Throws UsageError that lists the names.
const NeedleTemplate& find_template(const std::vector<NeedleTemplate>& templates,
                                    std::string_view name);

}  // namespace longgen::eval
