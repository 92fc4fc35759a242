// Added tokens: found in a text before it is split any further.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace longgen::tokenizer {

struct AddedToken {
  int32_t id = -1;
  std::string text;
  bool special = true;
  bool lstrip = false, rstrip = false;  // swallows the white space before, after it
  bool single_word = false;             // only where no word character stands beside it
  bool normalized = false;              // found in the normalised text, as normalised itself
};

// Finds added tokens in a text as the `tokenizers` library does: from left to right the longest at
// each place; one that may not stand there (special tokens unless asked for, words inside words)
// hides the shorter ones in it and stays text.
class AddedTokenMatcher {
 public:
  // The tokens' texts must not be empty.
  explicit AddedTokenMatcher(std::vector<AddedToken> tokens);

  // Calls text(begin, end) for what lies between the tokens, never empty, and token(added) for
  // them, in order.
  template <typename Text, typename Token>
  void cut(std::string_view whole, bool with_special, Text&& text, Token&& token) const {
    size_t done = 0;
    for (size_t from = 0; from < whole.size();) {
      const Match match = find(whole, from);
      if (match.token == nullptr) break;
      from = match.end;
      if (!may_stand(whole, match, with_special)) continue;
      const Match wide = with_white_space(whole, match, done);
      if (done < wide.begin) text(done, wide.begin);
      token(*match.token);
      done = wide.end;
    }
    if (done < whole.size()) text(done, whole.size());
  }

 private:
  struct Match {
    size_t begin = 0, end = 0;
    const AddedToken* token = nullptr;  // null: none left
  };
  // The leftmost at or behind `from`, the longest of those.
  Match find(std::string_view text, size_t from) const;
  static bool may_stand(std::string_view text, const Match& match, bool with_special);
  // With the white space that it swallows, none of it before `done`.
  static Match with_white_space(std::string_view text, Match match, size_t done);

  // A tree of the tokens' bytes; node 0 is the root.
  int32_t child(int32_t node, char byte) const;

  std::vector<AddedToken> tokens_;
  std::unordered_map<uint64_t, int32_t> children_;  // node and byte to node
  std::vector<int32_t> token_at_;                   // by node; -1: none ends there
  bool starts_[256] = {};                           // bytes that a token starts with
};

}  // namespace longgen::tokenizer
