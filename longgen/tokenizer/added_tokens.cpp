#include "longgen/tokenizer/added_tokens.h"

#include <algorithm>

#include "longgen/tokenizer/characters.h"

namespace longgen::tokenizer {
namespace {

uint64_t key_of(int32_t node, char byte) {
  return static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(byte);
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens)
    : tokens_(std::move(tokens)), token_at_(1, -1) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    int32_t node = 0;
    for (const char byte : tokens_[i].text) {
      const auto next = static_cast<int32_t>(token_at_.size());
      const auto [found, fresh] = children_.emplace(key_of(node, byte), next);
      if (fresh) token_at_.push_back(-1);
      node = found->second;
    }
    if (token_at_[node] < 0) token_at_[node] = static_cast<int32_t>(i);
    starts_[static_cast<uint8_t>(tokens_[i].text[0])] = true;
  }
}

int32_t AddedTokenMatcher::child(int32_t node, char byte) const {
  const auto found = children_.find(key_of(node, byte));
  return found == children_.end() ? -1 : found->second;
}

AddedTokenMatcher::Match AddedTokenMatcher::find(std::string_view text, size_t from) const {
  Match match;
  if (tokens_.empty()) return match;
  for (size_t begin = from; begin < text.size() && match.token == nullptr; ++begin) {
    if (!starts_[static_cast<uint8_t>(text[begin])]) continue;
    int32_t node = 0;
    for (size_t i = begin; i < text.size(); ++i) {
      node = child(node, text[i]);
      if (node < 0) break;
      if (token_at_[node] >= 0) match = {begin, i + 1, &tokens_[token_at_[node]]};
    }
  }
  return match;
}

bool AddedTokenMatcher::may_stand(std::string_view text, const Match& match, bool with_special) {
  if (match.token->special && !with_special) return false;
  return !match.token->single_word || (!ends_with_word(text.substr(0, match.begin)) &&
                                       !starts_with_word(text.substr(match.end)));
}

AddedTokenMatcher::Match AddedTokenMatcher::with_white_space(std::string_view text, Match match,
                                                             size_t done) {
  if (match.token->lstrip && done < match.begin)
    match.begin -= white_space_suffix(text.substr(done, match.begin - done));
  if (match.token->rstrip) {
    match.end = std::max(match.end, done);  // white space that the token before it swallowed
    match.end += white_space_prefix(text.substr(match.end));
  }
  return match;
}

}  // namespace longgen::tokenizer
