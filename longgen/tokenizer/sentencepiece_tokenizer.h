// SentencePiece BPE: Llama-2, Mistral, Phi-3.
#pragma once

#include <memory>

#include "longgen/tokenizer/sentencepiece_model.h"
#include "longgen/tokenizer/tokenizer.h"

namespace longgen::tokenizer {

// Lists the model's control and unknown pieces among the added tokens, all of them special.
void add_control_pieces(const SentencePieceModel& model, TokenizerInfo& info);

// What finds the pieces of a word: libsentencepiece, or the merges of sentencepiece_merges.h where
// they give the same ids, several times as fast.
enum class PieceFinder { kLibrary, kFastest };

// Tokens of `info.added` beyond the model's pieces extend the vocabulary; `info.token_bytes` and
// `info.special` are filled here. Bytes that are not UTF-8 become byte tokens (the unknown token
// where the model has none). U+2581 in a text is a space to SentencePiece and comes back as one.
// Throws Error naming `file`.
std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(SentencePieceModel model,
                                                        TokenizerInfo info, const std::string& file,
                                                        PieceFinder finder = PieceFinder::kFastest);

}  // namespace longgen::tokenizer
