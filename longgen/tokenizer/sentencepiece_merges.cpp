#include "longgen/tokenizer/sentencepiece_merges.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

#include "longgen/tokenizer/utf8.h"

namespace longgen::tokenizer {
namespace {

using Piece = SentencePieceModel::Piece;
using PieceIds = std::unordered_map<std::string_view, int32_t>;

// More pieces of one score than this are taken to overlap somewhere.
constexpr size_t kMaxTies = 64;

PieceIds normal_pieces(const SentencePieceModel& model) {
  PieceIds ids;
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    if (model.pieces[id].type == PieceType::kNormal)
      ids.emplace(model.pieces[id].text, static_cast<int32_t>(id));
  }
  return ids;
}

bool is_one_character(std::string_view text) { return utf8_step(text).length == text.size(); }

// Calls cut(left, right) for every way to cut `text` in two.
template <typename Cut>
void for_each_cut(std::string_view text, Cut&& cut) {
  for (size_t at = utf8_step(text).length; at < text.size();
       at += utf8_step(text.substr(at)).length) {
    cut(text.substr(0, at), text.substr(at));
  }
}

// The end of one is the start of the other.
bool overlap(std::string_view a, std::string_view b) {
  for (size_t length = 1; length < std::min(a.size(), b.size()); ++length) {
    if (a.ends_with(b.substr(0, length)) || b.ends_with(a.substr(0, length))) return true;
  }
  return a.find(b) != a.npos || b.find(a) != b.npos;
}

// The kinds of pieces that tokenizer.json has no word for.
std::string find_odd_piece(const SentencePieceModel& model, const std::vector<AddedToken>& added) {
  std::set<int32_t> apart;
  for (const AddedToken& token : added) apart.insert(token.id);
  std::unordered_set<std::string_view> texts;
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const Piece& piece = model.pieces[id];
    if (!texts.insert(piece.text).second) return fmt::format("'{}' stands twice", piece.text);
    if (piece.type == PieceType::kNormal || piece.type == PieceType::kByte) continue;
    if (piece.type == PieceType::kUnused) return fmt::format("'{}' is unused", piece.text);
    if (piece.type == PieceType::kUserDefined && !apart.contains(static_cast<int32_t>(id)))
      return fmt::format("'{}' is user-defined", piece.text);
    if (is_one_character(piece.text))
      return fmt::format("'{}' is a single character, but no normal piece", piece.text);
  }
  return "";
}

// SentencePiece also merges characters that are no pieces themselves.
std::string find_merged_stranger(const SentencePieceModel& model, const PieceIds& ids) {
  for (const Piece& piece : model.pieces) {
    if (piece.type != PieceType::kNormal) continue;
    std::string found;
    for_each_cut(piece.text, [&](std::string_view left, std::string_view right) {
      const bool known_left = ids.contains(left), known_right = ids.contains(right);
      const bool merged =
          (known_left || is_one_character(left)) && (known_right || is_one_character(right));
      if (merged && !(known_left && known_right)) found = known_left ? right : left;
    });
    if (!found.empty())
      return fmt::format("'{}' is merged of '{}', which is no piece", piece.text, found);
  }
  return "";
}

// How often `text` is its first character and nothing else; 0 when it is something else too.
size_t run_length(std::string_view text) {
  const std::string_view first = text.substr(0, utf8_step(text).length);
  size_t length = 0;
  for (; text.starts_with(first); ++length) text.remove_prefix(first.size());
  return text.empty() ? length : 0;
}

// Whether the runs of one character among pieces of equal score, `ids`, are all from two to some
// length, of lower ids than the character (Llama 2: spaces). Then the merges let the leftmost run
// grow to the end as SentencePiece does: a pair ranks by the id on its left, and the single
// character comes last.
bool runs_grow_alike(const SentencePieceModel& model, const PieceIds& known,
                     const std::vector<int32_t>& ids, std::string_view character) {
  const auto single = known.find(character);
  if (single == known.end()) return false;
  std::set<size_t> lengths;
  for (const int32_t id : ids) {
    const std::string_view text = model.pieces[id].text;
    if (!text.starts_with(character) || run_length(text) == 0) continue;
    lengths.insert(run_length(text));
    if (id > single->second) return false;
  }
  return !lengths.empty() && *lengths.rbegin() == lengths.size() + 1;
}

// Of equal scores SentencePiece takes the one further left, whichever pair that is.
std::string find_tie(const SentencePieceModel& model, const PieceIds& known) {
  std::map<float, std::vector<int32_t>> by_score;
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const Piece& piece = model.pieces[id];
    if (piece.type == PieceType::kNormal && !is_one_character(piece.text))
      by_score[piece.score].push_back(static_cast<int32_t>(id));
  }
  for (const auto& [score, ids] : by_score) {
    if (ids.size() > kMaxTies) return fmt::format("{} pieces have the score {}", ids.size(), score);
    for (size_t i = 0; i < ids.size(); ++i) {
      for (size_t j = 0; j < i; ++j) {
        const std::string_view a = model.pieces[ids[i]].text, b = model.pieces[ids[j]].text;
        if (!overlap(a, b)) continue;
        const std::string_view character = a.substr(0, utf8_step(a).length);
        const bool runs = run_length(a) > 0 && run_length(b) > 0;
        if (runs && runs_grow_alike(model, known, ids, character)) continue;
        return fmt::format("'{}' and '{}' have the same score", b, a);
      }
    }
  }
  return "";
}

}  // namespace

std::vector<std::pair<std::string, std::string>> merges_of(const SentencePieceModel& model) {
  struct Merge {
    float score;
    int32_t left, right;
    std::string_view left_text, right_text;
  };
  const PieceIds ids = normal_pieces(model);
  std::vector<Merge> merges;
  for (const Piece& piece : model.pieces) {
    if (piece.type != PieceType::kNormal) continue;
    for_each_cut(piece.text, [&](std::string_view left, std::string_view right) {
      const auto left_id = ids.find(left), right_id = ids.find(right);
      if (left_id == ids.end() || right_id == ids.end()) return;
      merges.push_back({piece.score, left_id->second, right_id->second, left, right});
    });
  }
  std::stable_sort(merges.begin(), merges.end(), [](const Merge& a, const Merge& b) {
    if (a.score != b.score) return a.score > b.score;
    return std::pair(a.left, a.right) < std::pair(b.left, b.right);
  });
  std::vector<std::pair<std::string, std::string>> texts;
  texts.reserve(merges.size());
  for (const Merge& merge : merges) texts.emplace_back(merge.left_text, merge.right_text);
  return texts;
}

std::string why_merges_differ(const SentencePieceModel& model,
                              const std::vector<AddedToken>& added) {
  if (std::string odd = find_odd_piece(model, added); !odd.empty()) return odd;
  const PieceIds known = normal_pieces(model);
  if (std::string odd = find_merged_stranger(model, known); !odd.empty()) return odd;
  return find_tie(model, known);
}

}  // namespace longgen::tokenizer
