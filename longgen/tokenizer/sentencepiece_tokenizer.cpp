#include "longgen/tokenizer/sentencepiece_tokenizer.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <array>
#include <optional>
#include <set>
#include <unordered_map>

#include "longgen/base/error.h"
#include "longgen/tokenizer/bpe_merges.h"
#include "longgen/tokenizer/characters.h"
#include "longgen/tokenizer/hf_files.h"
#include "longgen/tokenizer/scratch_pool.h"
#include "longgen/tokenizer/sentencepiece_merges.h"
#include "longgen/tokenizer/utf8.h"
#include "longgen/tokenizer/word_cache.h"

namespace longgen::tokenizer {
namespace {

std::string with_spaces(std::string_view piece) {
  std::string text;
  for (size_t i = 0; i < piece.size();) {
    const bool mark = piece.substr(i).starts_with(kSpaceMark);
    text += mark ? ' ' : piece[i];
    i += mark ? kSpaceMark.size() : 1;
  }
  return text;
}

// Where a text may be cut so that its parts, encoded alone, give the ids of the whole: at places
// that no piece spans. Words then come from a cache.
class SafeCuts {
 public:
  explicit SafeCuts(const SentencePieceModel& model) {
    // Without byte fallback, unknown characters side by side become one token, the space too.
    alone_.fill(model.byte_fallback);
    before_spaces_ = model.byte_fallback ||
                     std::any_of(model.pieces.begin(), model.pieces.end(), [](const auto& piece) {
                       return piece.text == kSpaceMark && piece.type == PieceType::kNormal;
                     });
    for (const auto& piece : model.pieces) {
      if (piece.type == PieceType::kControl || piece.type == PieceType::kUnknown) continue;
      if (piece.type == PieceType::kByte) continue;
      const std::string text = with_spaces(piece.text);
      const size_t letter = text.find_first_not_of(' ');
      before_spaces_ &= letter == text.npos || text.find(' ', letter) == text.npos;
      if (text.size() == 1) continue;
      for (const char c : text) alone_[static_cast<uint8_t>(c)] = false;
    }
    // Bytes of longer characters, and the space, have their own rules.
    for (int b = 128; b < 256; ++b) alone_[b] = false;
    alone_[' '] = false;
  }

  // Between text[i - 1] and text[i].
  bool at(std::string_view text, size_t i) const {
    const char before = text[i - 1], after = text[i];
    if (alone_[static_cast<uint8_t>(before)] || alone_[static_cast<uint8_t>(after)]) return true;
    // To SentencePiece its mark in a text is a space.
    return before_spaces_ && after == ' ' && before != ' ' &&
           !text.substr(0, i).ends_with(kSpaceMark);
  }

 private:
  std::array<bool, 256> alone_{};  // ASCII characters that no longer piece holds
  bool before_spaces_;             // no token goes on with a space after something else
};

void check_pieces(const SentencePieceModel& model, const std::string& file) {
  require(model.pieces.size() <= kMaxVocabulary, "{}: {} tokens; at most {} are supported", file,
          model.pieces.size(), kMaxVocabulary);
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const auto& piece = model.pieces[id];
    require(!piece.text.empty() && valid_utf8_prefix(piece.text) == piece.text.size(),
            "{}: token {} is {}", file, id, piece.text.empty() ? "empty" : "not valid UTF-8");
    require(piece.score == piece.score, "{}: the score of token {} ('{}') is not a number", file,
            id, piece.text);
    require(piece.type != PieceType::kByte || byte_of_piece(piece.text) >= 0,
            "{}: byte token {} is '{}', not of the form <0xFF>", file, id, piece.text);
  }
}

TokenizerInfo complete_info(const SentencePieceModel& model, TokenizerInfo info,
                            const std::string& file) {
  const size_t size = model.pieces.size() + info.added.size();
  info.token_bytes.clear();
  info.special.clear();
  for (const auto& piece : model.pieces) {
    const bool byte = piece.type == PieceType::kByte;
    info.token_bytes.push_back(byte ? std::string(1, static_cast<char>(byte_of_piece(piece.text)))
                                    : with_spaces(piece.text));
    info.special.push_back(piece.type == PieceType::kControl || piece.type == PieceType::kUnknown);
  }
  for (const AddedToken& token : info.added) {
    require(token.id >= 0 && static_cast<size_t>(token.id) < size,
            "{}: added token '{}' has the id {}; the vocabulary ends before {}", file, token.text,
            token.id, size);
    if (static_cast<size_t>(token.id) >= info.token_bytes.size()) {
      info.token_bytes.resize(token.id + 1);
      info.special.resize(token.id + 1, false);
    }
    info.token_bytes[token.id] = token.text;
    info.special[token.id] = token.special;
  }
  return info;
}

// The model as libsentencepiece gets it. It would give up on a text that has a control token of a
// single character in it, so these get names that no character has.
std::string model_for_library(SentencePieceModel model) {
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    auto& piece = model.pieces[id];
    const bool character = utf8_step(piece.text).length == piece.text.size();
    if (piece.type == PieceType::kControl && character)
      piece.text = fmt::format("<control token {}>", id);
  }
  // The space before the text is put by us, so that it stands once although the text comes in
  // parts.
  return serialise_sentencepiece_model(model, false);
}

// The pieces of a word by merges, for models that why_merges_differ() has nothing against and that
// fall back to bytes.
class MergedPieces {
 public:
  explicit MergedPieces(const SentencePieceModel& model) : merges_(rules_of(model)) {
    for (size_t id = 0; id < model.pieces.size(); ++id) {
      const auto& piece = model.pieces[id];
      const auto token = static_cast<int32_t>(id);
      if (piece.type == PieceType::kByte) bytes_[byte_of_piece(piece.text)] = token;
      if (piece.type != PieceType::kNormal) continue;
      if (utf8_step(piece.text).length == piece.text.size())
        characters_.emplace(code_point(piece.text), token);
    }
  }

  void encode(std::string_view word, BpeMerges::Scratch& scratch, std::vector<int32_t>& ids) const {
    ids.clear();
    for_each_character(word, [&](char32_t c, std::string_view bytes) {
      if (c == ' ') {
        c = code_point(kSpaceMark);
        bytes = kSpaceMark;
      }
      if (const auto known = characters_.find(c); known != characters_.end()) {
        ids.push_back(known->second);
      } else {
        for (const char byte : bytes) ids.push_back(bytes_[static_cast<uint8_t>(byte)]);
      }
    });
    merges_.apply(ids, scratch);
  }

 private:
  static std::vector<BpeMerges::Rule> rules_of(const SentencePieceModel& model) {
    std::unordered_map<std::string_view, int32_t> ids;
    for (size_t id = 0; id < model.pieces.size(); ++id) {
      if (model.pieces[id].type == PieceType::kNormal)
        ids.emplace(model.pieces[id].text, static_cast<int32_t>(id));
    }
    std::vector<BpeMerges::Rule> rules;
    for (const auto& [left, right] : merges_of(model))
      rules.push_back({ids.at(left), ids.at(right), ids.at(left + right)});
    return rules;
  }

  BpeMerges merges_;
  std::unordered_map<char32_t, int32_t> characters_;
  std::array<int32_t, 256> bytes_{};
};

bool has_all_bytes(const SentencePieceModel& model) {
  std::set<int> bytes;
  for (const auto& piece : model.pieces) {
    if (piece.type == PieceType::kByte) bytes.insert(byte_of_piece(piece.text));
  }
  return model.byte_fallback && bytes.size() == 256;
}

class SentencePieceTokenizer : public Tokenizer {
 public:
  SentencePieceTokenizer(SentencePieceModel model, TokenizerInfo info, const std::string& file,
                         PieceFinder finder)
      : Tokenizer(complete_info(model, std::move(info), file), file),
        model_(std::move(model)),
        file_(file),
        cuts_(model_) {
    if (finder == PieceFinder::kFastest && has_all_bytes(model_) &&
        why_merges_differ(model_, this->info().added).empty()) {
      merged_.emplace(model_);
    } else {
      load_library();
    }
    byte_ids_.fill(model_.unk);
    for (size_t id = 0; id < model_.pieces.size(); ++id) {
      const auto& piece = model_.pieces[id];
      if (piece.type == PieceType::kByte)
        byte_ids_[byte_of_piece(piece.text)] = static_cast<int32_t>(id);
    }
  }

 protected:
  void encode_plain(std::string_view text, Piece piece, std::vector<int32_t>& ids) const override;
  size_t spaces_to_drop(bool) const override {
    return model_.prefix == SpacePrefix::kAfterAdded ? 1 : 0;
  }
  std::map<std::string, std::string> make_files() const override {
    return make_sentencepiece_files(model_, info());
  }

 private:
  struct Scratch {
    WordCache cache;
    std::vector<int32_t> ids;
    BpeMerges::Scratch merges;
  };

  void load_library() {
    const auto status = processor_.LoadFromSerializedProto(model_for_library(model_));
    require(status.ok(), "{}: SentencePiece refuses the vocabulary: {}", file_, status.ToString());
  }

  void encode_valid(std::string_view text, Scratch& scratch, std::vector<int32_t>& ids) const;
  void encode_word(std::string_view word, Scratch& scratch, std::vector<int32_t>& ids) const;

  SentencePieceModel model_;
  std::string file_;
  std::optional<MergedPieces> merged_;
  sentencepiece::SentencePieceProcessor processor_;  // where there are no merges
  std::array<int32_t, 256> byte_ids_{};
  SafeCuts cuts_;
  mutable ScratchPool<Scratch> scratch_;
};

void SentencePieceTokenizer::encode_plain(std::string_view text, Piece,
                                          std::vector<int32_t>& ids) const {
  std::string prefixed(1, ' '), replaced;
  if (model_.prefix == SpacePrefix::kAfterAdded) text = prefixed += text;
  // Without byte tokens what is not UTF-8 is an unknown character among others, as it is to
  // libsentencepiece.
  if (!model_.byte_fallback) text = replaced = replace_invalid_utf8(text);
  scratch_.with([] { return std::make_unique<Scratch>(); },
                [&](Scratch& scratch) {
                  for_each_utf8_run(
                      text, [&](std::string_view valid) { encode_valid(valid, scratch, ids); },
                      [&](std::string_view invalid) {
                        for (const char c : invalid)
                          ids.push_back(byte_ids_[static_cast<uint8_t>(c)]);
                      });
                });
}

void SentencePieceTokenizer::encode_valid(std::string_view text, Scratch& scratch,
                                          std::vector<int32_t>& ids) const {
  size_t begin = 0;
  for (size_t i = 1; i < text.size(); ++i) {
    if (!cuts_.at(text, i)) continue;
    encode_word(text.substr(begin, i - begin), scratch, ids);
    begin = i;
  }
  encode_word(text.substr(begin), scratch, ids);
}

void SentencePieceTokenizer::encode_word(std::string_view word, Scratch& scratch,
                                         std::vector<int32_t>& ids) const {
  if (scratch.cache.append(word, ids)) return;
  if (merged_) {
    merged_->encode(word, scratch.merges, scratch.ids);
  } else {
    const auto status = processor_.Encode(word, &scratch.ids);
    require(status.ok(), "{}: SentencePiece cannot encode the text: {}", file_, status.ToString());
  }
  ids.insert(ids.end(), scratch.ids.begin(), scratch.ids.end());
  scratch.cache.insert(word, scratch.ids);
}

}  // namespace

void add_control_pieces(const SentencePieceModel& model, TokenizerInfo& info) {
  std::set<int32_t> known;
  for (const AddedToken& token : info.added) known.insert(token.id);
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    const auto& piece = model.pieces[i];
    const bool special = piece.type == PieceType::kControl || piece.type == PieceType::kUnknown;
    if (special && !known.contains(id)) info.added.push_back({.id = id, .text = piece.text});
  }
}

std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(SentencePieceModel model,
                                                        TokenizerInfo info, const std::string& file,
                                                        PieceFinder finder) {
  check_pieces(model, file);
  return std::make_unique<SentencePieceTokenizer>(std::move(model), std::move(info), file, finder);
}

}  // namespace longgen::tokenizer
