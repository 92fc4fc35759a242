#include "longgen/tokenizer/byte_tokenizer.h"

#include "longgen/base/error.h"
#include "longgen/tokenizer/hf_files.h"
#include "longgen/tokenizer/utf8.h"

namespace longgen::tokenizer {
namespace {

TokenizerInfo with_bytes(TokenizerInfo info, const std::string& file) {
  const size_t size = 256 + info.added.size();
  info.token_bytes.assign(size, "");
  info.special.assign(size, false);
  for (int b = 0; b < 256; ++b) info.token_bytes[b] = std::string(1, static_cast<char>(b));
  for (const AddedToken& token : info.added) {
    require(token.id >= 256 && static_cast<size_t>(token.id) < size &&
                info.token_bytes[token.id].empty(),
            "{}: added token '{}' has the id {}; in a vocabulary of bytes added tokens have the "
            "ids from "
            "256, without gaps",
            file, token.text, token.id);
    info.token_bytes[token.id] = token.text;
    info.special[token.id] = token.special;
  }
  return info;
}

}  // namespace

ByteTokenizer::ByteTokenizer(TokenizerInfo info, const std::string& file)
    : Tokenizer(with_bytes(std::move(info), file), file) {}

void ByteTokenizer::encode_plain(std::string_view text, Piece, std::vector<int32_t>& ids) const {
  const size_t before = ids.size();
  ids.resize(before + text.size());
  for (size_t i = 0; i < text.size(); ++i) ids[before + i] = static_cast<uint8_t>(text[i]);
}

std::map<std::string, std::string> ByteTokenizer::make_files() const {
  BpeFileContents contents;
  for (int b = 0; b < 256; ++b) contents.pieces.push_back(to_byte_level(token_bytes(b)));
  contents.pieces.resize(static_cast<size_t>(vocab_size()));
  contents.pre = {{.kind = PreTokenizerStep::Kind::kByteAlphabet}};
  return make_bpe_files(contents, info());
}

std::unique_ptr<Tokenizer> make_byte_tokenizer() {
  TokenizerInfo info;
  info.added = {{.id = kByteBos, .text = "<|bos|>"},
                {.id = kByteEos, .text = "<|eos|>"},
                {.id = kBytePad, .text = "<|pad|>"}};
  info.bos = kByteBos;
  info.eos = kByteEos;
  info.pad = kBytePad;
  info.end_of_generation = {kByteEos};
  return std::make_unique<ByteTokenizer>(std::move(info), "built-in byte tokenizer");
}

}  // namespace longgen::tokenizer
