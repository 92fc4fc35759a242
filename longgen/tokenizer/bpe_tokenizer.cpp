#include "longgen/tokenizer/bpe_tokenizer.h"

#include <algorithm>

#include "longgen/base/error.h"
#include "longgen/tokenizer/characters.h"
#include "longgen/tokenizer/hf_files.h"
#include "longgen/tokenizer/sentencepiece_model.h"
#include "longgen/tokenizer/utf8.h"

namespace longgen::tokenizer {
namespace {

using PieceIds = std::unordered_map<std::string_view, int32_t>;

// Added tokens are written as they are, the others in the byte alphabet.
void fill_info(BpeData& data) {
  TokenizerInfo& info = data.info;
  const bool given = !info.token_bytes.empty();
  info.token_bytes.resize(data.pieces.size());
  info.special.assign(data.pieces.size(), false);
  for (size_t id = 0; id < data.pieces.size() && !given; ++id) {
    if (!from_byte_level(data.pieces[id], info.token_bytes[id]))
      info.token_bytes[id] = data.pieces[id];
  }
  for (const AddedToken& token : info.added) {
    require(token.id >= 0 && static_cast<size_t>(token.id) < data.pieces.size(),
            "{}: added token '{}' has the id {}, outside the vocabulary of {} tokens", data.file,
            token.text, token.id, data.pieces.size());
    info.token_bytes[token.id] = token.text;
    info.special[token.id] = token.special;
  }
}

// The pieces of the model itself.
PieceIds index_pieces(const BpeData& data) {
  PieceIds ids;
  ids.reserve(data.pieces.size());
  for (size_t id = 0; id < data.pieces.size(); ++id) {
    const std::string& piece = data.pieces[id];
    if (piece.empty() || (!data.in_model.empty() && !data.in_model[id])) continue;
    const auto [found, fresh] = ids.emplace(piece, static_cast<int32_t>(id));
    require(fresh, "{}: token '{}' stands twice in the vocabulary, as {} and {}", data.file, piece,
            found->second, id);
  }
  return ids;
}

std::vector<BpeMerges::Rule> resolve_merges(const BpeData& data, const PieceIds& ids) {
  std::vector<BpeMerges::Rule> rules;
  rules.reserve(data.merges.size());
  std::string merged;
  for (size_t rank = 0; rank < data.merges.size(); ++rank) {
    const std::string &left = data.merges[rank].first, &right = data.merges[rank].second;
    const auto id_of = [&](std::string_view piece) {
      const auto found = ids.find(piece);
      if (found == ids.end()) {
        fail("{}: merge {} ('{}' + '{}') needs the token '{}', which is not in the vocabulary",
             data.file, rank, left, right, piece);
      }
      return found->second;
    };
    merged.assign(left).append(right);
    rules.push_back({id_of(left), id_of(right), id_of(merged)});
  }
  return rules;
}

// The added tokens that are looked for in normalised text.
std::vector<AddedToken> normalized_tokens(const std::vector<AddedToken>& added,
                                          const Normalizer& normalizer) {
  std::vector<AddedToken> tokens;
  Regex::Scratch scratch;
  for (AddedToken token : added) {
    if (!token.normalized) continue;
    token.text = normalizer.apply(token.text, scratch);
    if (!token.text.empty()) tokens.push_back(std::move(token));
  }
  return tokens;
}

}  // namespace

std::unique_ptr<BpeTokenizer> BpeTokenizer::make(BpeData data) {
  require(data.pieces.size() <= kMaxVocabulary, "{}: {} tokens; at most {} are supported",
          data.file, data.pieces.size(), kMaxVocabulary);
  fill_info(data);
  const PieceIds ids = index_pieces(data);
  BpeMerges merges(resolve_merges(data, ids));
  Symbols symbols = find_symbols(data, ids);
  return std::unique_ptr<BpeTokenizer>(
      new BpeTokenizer(std::move(data), std::move(merges), std::move(symbols)));
}

BpeTokenizer::Symbols BpeTokenizer::find_symbols(const BpeData& data, const PieceIds& ids) {
  Symbols symbols;
  int found = 0;
  for (int b = 0; b < 256; ++b) {
    const char byte = static_cast<char>(b);
    const auto at =
        ids.find(data.byte_level ? to_byte_level({&byte, 1}) : fmt::format("<0x{:02X}>", b));
    symbols.bytes[b] =
        at == ids.end() || !(data.byte_level || data.byte_fallback) ? kNoToken : at->second;
    found += symbols.bytes[b] != kNoToken;
  }
  symbols.all_bytes = found == 256;
  require(!data.byte_level || found > 0,
          "{}: no token stands for a single byte, so this is not a byte-level vocabulary",
          data.file);
  if (data.byte_level) return symbols;
  for (const auto& [piece, id] : ids) {
    const Utf8Step step = utf8_step(piece);
    if (step.kind == Utf8Kind::kCharacter && step.length == piece.size())
      symbols.characters.emplace(code_point(piece), id);
  }
  return symbols;
}

BpeTokenizer::BpeTokenizer(BpeData data, BpeMerges merges, Symbols symbols)
    : Tokenizer(std::move(data.info), data.file),
      data_(std::move(data)),
      merges_(std::move(merges)),
      symbols_(std::move(symbols)),
      normalizer_(data_.normalizer, data_.file + ": normalizer"),
      pre_(data_.pre, data_.file + ": pre_tokenizer"),
      normalized_(normalized_tokens(info().added, normalizer_)),
      cuts_at_spaces_(cuts_at_spaces()) {
  if (data_.ignore_merges) {
    for (size_t id = 0; id < data_.pieces.size(); ++id) {
      if (data_.pieces[id].empty() || (!data_.in_model.empty() && !data_.in_model[id])) continue;
      std::string word;
      if (!data_.byte_level || !from_byte_level(data_.pieces[id], word)) word = data_.pieces[id];
      whole_words_.emplace(std::move(word), static_cast<int32_t>(id));
    }
  }
  data_.merges.clear();
  data_.in_model.clear();
}

// Whether a text may be cut before every run of U+2581, so that words come from the cache: no token
// goes on with one after something else, and no unknown symbols wait to be fused.
bool BpeTokenizer::cuts_at_spaces() const {
  if (data_.byte_level || data_.ignore_merges || !symbols_.all_bytes) return false;
  if (!symbols_.characters.contains(code_point(kSpaceMark))) return false;
  for (const BpeMerges::Rule& rule : merges_.rules()) {
    const std::string& left = data_.pieces[rule.left];
    if (data_.pieces[rule.right].starts_with(kSpaceMark) && !left.ends_with(kSpaceMark))
      return false;
  }
  return true;
}

std::string BpeTokenizer::missing_bytes() const {
  std::string missing;
  for (int b = 0; b < 256; ++b) {
    const bool character = !data_.byte_level && b < 128;
    const bool known = symbols_.bytes[b] != kNoToken ||
                       (character && symbols_.characters.contains(static_cast<char32_t>(b)));
    if (!known) missing += static_cast<char>(b);
  }
  return missing;
}

void BpeTokenizer::encode_plain(std::string_view text, Piece piece,
                                std::vector<int32_t>& ids) const {
  scratch_.with([] { return std::make_unique<Scratch>(); },
                [&](Scratch& scratch) {
                  std::string changed, replaced;
                  // As SentencePiece has it, whose models come in this form too.
                  if (!data_.byte_level && !data_.byte_fallback)
                    text = replaced = replace_invalid_utf8(text);
                  if (!normalizer_.empty()) text = changed = normalizer_.apply(text, scratch.regex);
                  normalized_.cut(
                      text, piece.parse_special,
                      [&](size_t begin, size_t end) {
                        encode_normalized(text.substr(begin, end - begin),
                                          piece.first && begin == 0, scratch, ids);
                      },
                      [&](const AddedToken& token) { ids.push_back(token.id); });
                });
}

void BpeTokenizer::encode_normalized(std::string_view text, bool first, Scratch& scratch,
                                     std::vector<int32_t>& ids) const {
  for_each_utf8_run(
      text,
      [&](std::string_view valid) {
        const bool inside = valid.data() != text.data();
        const auto place = inside  ? PreTokenizer::Place::kInside
                           : first ? PreTokenizer::Place::kTextStart
                                   : PreTokenizer::Place::kPieceStart;
        pre_.split(valid, place, scratch.regex,
                   [&](std::string_view word) { encode_piece(word, scratch, ids); });
      },
      [&](std::string_view invalid) { encode_invalid(invalid, scratch, ids); });
}

void BpeTokenizer::encode_piece(std::string_view piece, Scratch& scratch,
                                std::vector<int32_t>& ids) const {
  if (!cuts_at_spaces_) return encode_word(piece, scratch, ids);
  size_t begin = 0;
  for (size_t at = piece.find(kSpaceMark, 1); at != piece.npos;
       at = piece.find(kSpaceMark, at + kSpaceMark.size())) {
    if (piece.substr(0, at).ends_with(kSpaceMark)) continue;
    encode_word(piece.substr(begin, at - begin), scratch, ids);
    begin = at;
  }
  encode_word(piece.substr(begin), scratch, ids);
}

void BpeTokenizer::encode_word(std::string_view word, Scratch& scratch,
                               std::vector<int32_t>& ids) const {
  if (scratch.cache.append(word, ids)) return;
  merge_word(word, scratch);
  ids.insert(ids.end(), scratch.symbols.begin(), scratch.symbols.end());
  scratch.cache.insert(word, scratch.symbols);
}

void BpeTokenizer::encode_invalid(std::string_view bytes, Scratch& scratch,
                                  std::vector<int32_t>& ids) const {
  if (data_.byte_level) return encode_word(bytes, scratch, ids);
  byte_symbols(bytes, ids);
}

void BpeTokenizer::merge_word(std::string_view word, Scratch& scratch) const {
  std::vector<int32_t>& symbols = scratch.symbols;
  symbols.clear();
  if (!whole_words_.empty()) {
    if (const auto whole = whole_words_.find(std::string(word)); whole != whole_words_.end()) {
      symbols.push_back(whole->second);
      return;
    }
  }
  require(word.size() < (size_t{1} << 31), "a word of {} bytes is too long to encode", word.size());
  if (data_.byte_level) {
    byte_symbols(word, symbols);
  } else {
    character_symbols(word, symbols);
  }
  merges_.apply(symbols, scratch.merges);
}

void BpeTokenizer::byte_symbols(std::string_view word, std::vector<int32_t>& symbols) const {
  bool after_unknown = false;
  for (const char c : word) {
    const int32_t id = symbols_.bytes[static_cast<uint8_t>(c)];
    if (id != kNoToken) {
      symbols.push_back(id);
    } else if (data_.unknown_symbol != kNoToken && !(after_unknown && data_.fuse_unknown)) {
      symbols.push_back(data_.unknown_symbol);
    }
    after_unknown = id == kNoToken;
  }
}

// Unknown symbols are written when a known character follows, so behind the bytes of others between
// them: as the `tokenizers` library has it.
void BpeTokenizer::character_symbols(std::string_view word, std::vector<int32_t>& symbols) const {
  bool waiting = false;
  for_each_character(word, [&](char32_t c, std::string_view bytes) {
    if (const auto known = symbols_.characters.find(c); known != symbols_.characters.end()) {
      if (waiting) symbols.push_back(data_.unknown_symbol);
      waiting = false;
      symbols.push_back(known->second);
      return;
    }
    const bool falls_back = std::all_of(bytes.begin(), bytes.end(), [&](char byte) {
      return symbols_.bytes[static_cast<uint8_t>(byte)] != kNoToken;
    });
    if (falls_back) return byte_symbols(bytes, symbols);
    if (data_.unknown_symbol == kNoToken) return;
    if (waiting && !data_.fuse_unknown) symbols.push_back(data_.unknown_symbol);
    waiting = true;
  });
  if (waiting) symbols.push_back(data_.unknown_symbol);
}

std::map<std::string, std::string> BpeTokenizer::make_files() const {
  require(data_.byte_level, "{}: only byte-level BPE can be written without its own files",
          data_.file);
  BpeFileContents contents;
  contents.pieces = data_.pieces;
  for (const BpeMerges::Rule& rule : merges_.rules()) {
    contents.merges.emplace_back(data_.pieces[rule.left], data_.pieces[rule.right]);
  }
  contents.normalizer = data_.normalizer;
  contents.pre = data_.pre;
  contents.ignore_merges = data_.ignore_merges;
  if (data_.unknown_symbol != kNoToken) contents.unknown_token = data_.pieces[data_.unknown_symbol];
  return make_bpe_files(contents, info());
}

}  // namespace longgen::tokenizer
