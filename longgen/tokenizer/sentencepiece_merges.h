// A SentencePiece model in the form of tokenizer.json: ranked pairs instead of scored pieces.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "longgen/tokenizer/sentencepiece_model.h"
#include "longgen/tokenizer/tokenizer.h"

namespace longgen::tokenizer {

// Every way to cut a piece in two pieces is a merge, ranked by the score of the whole (as
// Transformers converts such models).
std::vector<std::pair<std::string, std::string>> merges_of(const SentencePieceModel& model);

// Why such merges and added tokens give other ids than the model itself; "" when they do not.
// Trained models are fine; edited and damaged ones need not be.
std::string why_merges_differ(const SentencePieceModel& model,
                              const std::vector<AddedToken>& added);

}  // namespace longgen::tokenizer
