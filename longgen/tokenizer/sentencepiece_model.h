// A SentencePiece BPE model as plain data, and its file format
// (google/sentencepiece src/sentencepiece_model.proto, protocol buffers 2).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace longgen::tokenizer {

// Numbers of the file format; GGUF's tokenizer.ggml.token_type has the same.
enum class PieceType : uint8_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};

// Where a space is put before the text.
enum class SpacePrefix : uint8_t {
  kNever,
  kAfterAdded,  // before the whole text, and after every added token
};

struct SentencePieceModel {
  struct Piece {
    std::string text;  // U+2581 for a space
    float score = 0;   // merges with higher scores come first
    PieceType type = PieceType::kNormal;
  };
  std::vector<Piece> pieces;  // by id
  int32_t unk = 0, bos = -1, eos = -1, pad = -1;
  bool byte_fallback = true;  // characters without a piece become the tokens of their bytes
  SpacePrefix prefix = SpacePrefix::kAfterAdded;
};

// U+2581, which stands for a space in pieces.
inline constexpr std::string_view kSpaceMark = "\xE2\x96\x81";

// Throws Error naming `file`: damaged; not a BPE; a text normaliser, removal of spaces, or spaces
// as suffixes, none of which is supported.
SentencePieceModel parse_sentencepiece_model(std::string_view bytes, const std::string& file);

// The file. `dummy_prefix` overrides the model's own setting.
std::string serialise_sentencepiece_model(const SentencePieceModel& model, bool dummy_prefix);

// The byte of a piece like "<0x0A>", or -1.
int byte_of_piece(std::string_view piece);

}  // namespace longgen::tokenizer
