#include "longgen/tokenizer/tokenizer.h"

#include <algorithm>

#include "longgen/base/atomic_file.h"
#include "longgen/base/error.h"
#include "longgen/tokenizer/utf8.h"

namespace longgen::tokenizer {
namespace {

void check_id(int32_t id, int32_t size, const std::string& file, const char* what) {
  require(id >= kNoToken && id < size, "{}: {} token id {} is outside the vocabulary of {} tokens",
          file, what, id, size);
}

}  // namespace

void TokenizerInfo::validate(const std::string& file) const {
  const auto size = static_cast<int32_t>(token_bytes.size());
  require(size > 0, "{}: the tokenizer has no tokens", file);
  require(special.size() == token_bytes.size(), "{}: {} tokens but {} token kinds", file, size,
          special.size());
  check_id(bos, size, file, "beginning-of-text");
  check_id(eos, size, file, "end-of-text");
  check_id(pad, size, file, "padding");
  check_id(unk, size, file, "unknown");
  for (const int32_t id : end_of_generation) {
    require(id >= 0, "{}: end-of-generation token id {} is negative", file, id);
    check_id(id, size, file, "end-of-generation");
  }
  for (const AddedToken& token : added) {
    require(token.id >= 0, "{}: added token '{}' has the id {}", file, token.text, token.id);
    check_id(token.id, size, file, "added");
    require(!token.text.empty(), "{}: added token {} is empty", file, token.id);
  }
}

namespace {

std::vector<AddedToken> raw_tokens(std::vector<AddedToken> tokens) {
  std::erase_if(tokens, [](const AddedToken& token) { return token.normalized; });
  return tokens;
}

}  // namespace

Tokenizer::Tokenizer(TokenizerInfo info, const std::string& file)
    : info_((info.validate(file), std::move(info))),
      is_added_(info_.special),
      matcher_(raw_tokens(info_.added)) {
  for (const AddedToken& token : info_.added) is_added_[token.id] = true;
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  std::vector<int32_t> ids;
  if (options.add_bos) {
    require(info_.bos != kNoToken,
            "this tokenizer has no beginning-of-text (BOS) token; encode without it");
    ids.push_back(info_.bos);
  }
  matcher_.cut(
      text, options.parse_special,
      [&](size_t begin, size_t end) {
        const Piece piece{.first = begin == 0, .parse_special = options.parse_special};
        encode_plain(text.substr(begin, end - begin), piece, ids);
      },
      [&](const AddedToken& token) { ids.push_back(token.id); });
  return ids;
}

void Tokenizer::append_token(int32_t id, bool skip_special, Before& before,
                             std::string& text) const {
  const std::string& bytes = token_bytes(id);
  if (is_added_[id]) {
    if (!skip_special || !info_.special[id]) text += bytes;
    // The BOS that encode() puts first leaves the text at its start.
    if (id != info_.bos || before != Before::kNothing) before = Before::kAdded;
    return;
  }
  size_t dropped = before == Before::kText ? 0 : spaces_to_drop(before == Before::kNothing);
  dropped = std::min({dropped, bytes.find_first_not_of(' '), bytes.size()});
  text.append(bytes, dropped);
  before = Before::kText;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, DecodeOptions options) const {
  std::string text;
  Before before = options.continuation ? Before::kText : Before::kNothing;
  for (const int32_t id : ids) append_token(id, options.skip_special, before, text);
  return text;
}

const std::string& Tokenizer::token_bytes(int32_t id) const {
  require(id >= 0 && id < vocab_size(), "token id {} is outside the tokenizer's {} tokens", id,
          vocab_size());
  return info_.token_bytes[id];
}

bool Tokenizer::is_special(int32_t id) const {
  return id >= 0 && id < vocab_size() && info_.special[id];
}

bool Tokenizer::is_end_of_generation(int32_t id) const {
  return std::binary_search(info_.end_of_generation.begin(), info_.end_of_generation.end(), id);
}

void Tokenizer::set_end_of_generation(std::vector<int32_t> ids) {
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  info_.end_of_generation = std::move(ids);
}

void Tokenizer::save(const std::filesystem::path& directory) const {
  const auto made =
      info_.source_files.empty() ? make_files() : std::map<std::string, std::string>{};
  for (const auto& [name, text] : info_.source_files.empty() ? made : info_.source_files) {
    write_file_atomically(directory / name, text);
  }
}

std::string StreamDecoder::push(int32_t id) {
  tokenizer_->append_token(id, options_.skip_special, before_, pending_);
  return take_characters();
}

std::string StreamDecoder::take_characters() {
  std::string text;
  std::string_view rest = pending_;
  while (!rest.empty()) {
    const size_t valid = valid_utf8_prefix(rest);
    text += rest.substr(0, valid);
    rest.remove_prefix(valid);
    if (rest.empty()) break;
    const Utf8Step step = utf8_step(rest);
    if (step.kind == Utf8Kind::kIncomplete) break;
    append_utf8(text, 0xFFFD);
    rest.remove_prefix(step.length);
  }
  pending_.erase(0, pending_.size() - rest.size());
  return text;
}

std::string StreamDecoder::finish() {
  std::string text;
  if (!pending_.empty()) append_utf8(text, 0xFFFD);
  pending_.clear();
  before_ = first();
  return text;
}

}  // namespace longgen::tokenizer
