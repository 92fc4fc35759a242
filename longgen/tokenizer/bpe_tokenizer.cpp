#include "longgen/tokenizer/bpe_tokenizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>

#include "longgen/base/error.h"
#include "longgen/tokenizer/hf_files.h"
#include "longgen/tokenizer/utf8.h"

namespace longgen::tokenizer {
namespace {

using PieceIds = std::unordered_map<std::string_view, int32_t>;

// Added tokens are written as they are, the others in the byte alphabet.
void fill_info(BpeData& data) {
  TokenizerInfo& info = data.info;
  info.token_bytes.resize(data.pieces.size());
  info.special.assign(data.pieces.size(), false);
  for (size_t id = 0; id < data.pieces.size(); ++id) {
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

PieceIds index_pieces(const BpeData& data) {
  PieceIds ids;
  ids.reserve(data.pieces.size());
  for (size_t id = 0; id < data.pieces.size(); ++id) {
    const std::string& piece = data.pieces[id];
    if (piece.empty()) continue;
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
    const auto& [left, right] = data.merges[rank];
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

std::array<int32_t, 256> find_byte_ids(const BpeData& data, const PieceIds& ids) {
  std::array<int32_t, 256> result;
  int found = 0;
  for (int b = 0; b < 256; ++b) {
    const char byte = static_cast<char>(b);
    const auto at = ids.find(to_byte_level({&byte, 1}));
    result[b] = at == ids.end() ? kNoToken : at->second;
    found += at != ids.end();
  }
  require(found > 0,
          "{}: no token stands for a single byte, so this is not a byte-level vocabulary",
          data.file);
  return result;
}

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return static_cast<uint8_t>(c) < 0x80; });
}

std::string to_nfc(std::string_view text) {
  utf8proc_uint8_t* result = nullptr;
  const auto length =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                   static_cast<utf8proc_ssize_t>(text.size()), &result,
                   static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(result, std::free);
  require(length >= 0, "cannot normalise the text (NFC): {}", utf8proc_errmsg(length));
  return std::string(reinterpret_cast<const char*>(result), static_cast<size_t>(length));
}

}  // namespace

std::unique_ptr<BpeTokenizer> BpeTokenizer::make(BpeData data) {
  require(data.pieces.size() <= kMaxVocabulary, "{}: {} tokens; at most {} are supported",
          data.file, data.pieces.size(), kMaxVocabulary);
  fill_info(data);
  const PieceIds ids = index_pieces(data);
  BpeMerges merges(resolve_merges(data, ids));
  const auto byte_ids = find_byte_ids(data, ids);
  return std::unique_ptr<BpeTokenizer>(
      new BpeTokenizer(std::move(data), std::move(merges), byte_ids));
}

BpeTokenizer::BpeTokenizer(BpeData data, BpeMerges merges, std::array<int32_t, 256> byte_ids)
    : Tokenizer(std::move(data.info), data.file),
      file_(data.file),
      pieces_(std::move(data.pieces)),
      merges_(std::move(merges)),
      byte_ids_(byte_ids),
      spec_(data.pre),
      pre_(data.pre.patterns, data.file),
      add_prefix_space_(data.add_prefix_space),
      unknown_symbol_(data.unknown_symbol) {
  if (!spec_.ignore_merges) return;
  for (int32_t id = 0; id < vocab_size(); ++id) {
    const std::string& bytes = info().token_bytes[id];
    if (!bytes.empty() && !info().special[id]) whole_words_.emplace(bytes, id);
  }
}

std::string BpeTokenizer::missing_bytes() const {
  std::string missing;
  for (int b = 0; b < 256; ++b) {
    if (byte_ids_[b] == kNoToken) missing += static_cast<char>(b);
  }
  return missing;
}

void BpeTokenizer::encode_plain(std::string_view text, bool, std::vector<int32_t>& ids) const {
  std::string changed;
  if (spec_.nfc && !is_ascii(text)) {
    for_each_utf8_run(
        text, [&](std::string_view valid) { changed += to_nfc(valid); },
        [&](std::string_view invalid) { changed += invalid; });
    text = changed;
  }
  if (add_prefix_space_ && !text.starts_with(' ')) {
    std::string prefixed(1, ' ');
    prefixed += text;
    text = changed = std::move(prefixed);
  }
  scratch_.with([&] { return std::make_unique<Scratch>(pre_); },
                [&](Scratch& scratch) {
                  for_each_utf8_run(
                      text, [&](std::string_view valid) { encode_valid(valid, scratch, ids); },
                      [&](std::string_view invalid) { encode_word(invalid, scratch, ids); });
                });
}

void BpeTokenizer::encode_valid(std::string_view text, Scratch& scratch,
                                std::vector<int32_t>& ids) const {
  pre_.split(text, scratch.pre, [&](std::string_view word) { encode_word(word, scratch, ids); });
}

void BpeTokenizer::encode_word(std::string_view word, Scratch& scratch,
                               std::vector<int32_t>& ids) const {
  size_t count = 0;
  if (const int32_t* known = scratch.cache.find(word, count)) {
    ids.insert(ids.end(), known, known + count);
    return;
  }
  merge_word(word, scratch);
  ids.insert(ids.end(), scratch.symbols.begin(), scratch.symbols.end());
  scratch.cache.insert(word, scratch.symbols);
}

void BpeTokenizer::merge_word(std::string_view word, Scratch& scratch) const {
  std::vector<int32_t>& symbols = scratch.symbols;
  symbols.clear();
  if (const auto whole = whole_words_.find(word); whole != whole_words_.end()) {
    symbols.push_back(whole->second);
    return;
  }
  require(word.size() < (size_t{1} << 31), "a word of {} bytes is too long to encode", word.size());
  for (const char c : word) {
    const int32_t id = byte_ids_[static_cast<uint8_t>(c)];
    if (id != kNoToken) {
      symbols.push_back(id);
    } else if (unknown_symbol_ != kNoToken) {
      symbols.push_back(unknown_symbol_);
    }
  }
  merges_.apply(symbols, scratch.merges);
}

std::map<std::string, std::string> BpeTokenizer::make_files() const {
  BpeFileContents contents;
  contents.pieces = pieces_;
  for (const BpeMerges::Rule& rule : merges_.rules()) {
    contents.merges.emplace_back(pieces_[rule.left], pieces_[rule.right]);
  }
  contents.patterns = spec_.patterns;
  contents.ignore_merges = spec_.ignore_merges;
  contents.nfc = spec_.nfc;
  contents.add_prefix_space = add_prefix_space_;
  if (unknown_symbol_ != kNoToken) contents.unknown_token = pieces_[unknown_symbol_];
  return make_bpe_files(contents, info());
}

}  // namespace longgen::tokenizer
