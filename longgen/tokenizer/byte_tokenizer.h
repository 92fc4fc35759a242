// One token a byte.
#pragma once

#include <memory>

#include "longgen/tokenizer/tokenizer.h"

namespace longgen::tokenizer {

// Byte b is id b; added tokens have the ids from 256.
class ByteTokenizer : public Tokenizer {
 public:
  // Throws Error naming `file` when an added token takes a byte's id or ids have a gap.
  ByteTokenizer(TokenizerInfo info, const std::string& file);

 protected:
  void encode_plain(std::string_view text, Piece piece, std::vector<int32_t>& ids) const override;
  std::map<std::string, std::string> make_files() const override;
};

constexpr int32_t kByteBos = 256, kByteEos = 257, kBytePad = 258;

// <|bos|> = 256, <|eos|> = 257, <|pad|> = 258. Text does not get a BOS unless asked for.
std::unique_ptr<Tokenizer> make_byte_tokenizer();

}  // namespace longgen::tokenizer
