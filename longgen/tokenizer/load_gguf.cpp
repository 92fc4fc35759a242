#include <algorithm>
#include <iterator>

#include "longgen/base/error.h"
#include "longgen/formats/gguf.h"
#include "longgen/tokenizer/bpe_tokenizer.h"
#include "longgen/tokenizer/gguf_rules.h"
#include "longgen/tokenizer/load.h"
#include "longgen/tokenizer/sentencepiece_tokenizer.h"

namespace longgen::tokenizer {
namespace {

using formats::GgufFile;

constexpr const char* kTokensKey = "tokenizer.ggml.tokens";

int32_t id_or_none(const GgufFile& gguf, const std::string& key, size_t tokens) {
  return static_cast<int32_t>(
      gguf.integer_or(key, kNoToken, kNoToken, static_cast<int64_t>(tokens) - 1));
}

std::vector<PieceType> read_types(const GgufFile& gguf, size_t tokens) {
  static constexpr const char* kKey = "tokenizer.ggml.token_type";
  std::vector<PieceType> types(tokens, PieceType::kNormal);
  if (!gguf.has(kKey)) return types;
  const auto& numbers = gguf.integers(kKey);
  const std::string file = gguf.path().string();
  require(numbers.size() == tokens, "{}: {} has {} entries for {} tokens", file, kKey,
          numbers.size(), tokens);
  for (size_t id = 0; id < tokens; ++id) {
    require(numbers[id] >= 1 && numbers[id] <= 6, "{}: {} of token {} is {}, not 1 to 6", file,
            kKey, id, numbers[id]);
    types[id] = static_cast<PieceType>(numbers[id]);
  }
  return types;
}

TokenizerInfo read_info(const GgufFile& gguf, const std::vector<std::string>& tokens,
                        const std::vector<PieceType>& types) {
  TokenizerInfo info;
  const auto id = [&](const char* name) {
    return id_or_none(gguf, std::string("tokenizer.ggml.") + name + "_token_id", tokens.size());
  };
  info.bos = id("bos");
  info.eos = id("eos");
  info.pad = id("padding");
  info.unk = id("unknown");
  for (const char* name : {"eot", "eom"}) {
    if (const int32_t end = id(name); end != kNoToken) info.end_of_generation.push_back(end);
  }
  info.adds_bos = gguf.boolean_or("tokenizer.ggml.add_bos_token", false);
  info.chat_template = gguf.string_or("tokenizer.chat_template", "");
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (types[i] != PieceType::kControl && types[i] != PieceType::kUserDefined) continue;
    if (tokens[i].empty()) continue;
    info.added.push_back({.id = static_cast<int32_t>(i),
                          .text = tokens[i],
                          .special = types[i] == PieceType::kControl});
  }
  return info;
}

// As ByteLevel's add_prefix_space does: before its expression.
void add_space_prefix(std::vector<PreTokenizerStep>& pre) {
  auto at = std::find(pre.begin(), pre.end(),
                      PreTokenizerStep{.kind = PreTokenizerStep::Kind::kByteAlphabet});
  if (at != pre.begin() && std::prev(at)->text == kGpt2Pattern) --at;
  pre.insert(at, {.kind = PreTokenizerStep::Kind::kPrefix, .text = " "});
}

std::unique_ptr<Tokenizer> load_bpe(const GgufFile& gguf) {
  BpeData data;
  data.file = gguf.path().string();
  data.pieces = gguf.strings(kTokensKey);
  data.info = read_info(gguf, data.pieces, read_types(gguf, data.pieces.size()));
  // Files older than the key hold GPT-2's kind.
  NamedRules rules = named_rules(gguf.string_or("tokenizer.ggml.pre", "gpt-2"), data.file);
  data.normalizer = std::move(rules.normalizer);
  data.pre = std::move(rules.pre);
  data.ignore_merges = rules.ignore_merges;
  if (!gguf.has("tokenizer.ggml.add_bos_token")) data.info.adds_bos = rules.adds_bos;
  if (gguf.boolean_or("tokenizer.ggml.add_space_prefix", false)) add_space_prefix(data.pre);
  static constexpr const char* kMergesKey = "tokenizer.ggml.merges";
  for (const std::string& merge : gguf.strings(kMergesKey)) {
    const size_t space = merge.find(' ', 1);
    require(space != std::string::npos && space + 1 < merge.size(),
            "{}: entry {} of {} is '{}', not two tokens with a space between", data.file,
            data.merges.size(), kMergesKey, merge);
    data.merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
  }
  add_end_of_generation(data.info);
  return BpeTokenizer::make(std::move(data));
}

// SentencePiece has exactly one unknown piece; GGUF files mark padding of the vocabulary as
// unknown.
void settle_unknown(SentencePieceModel& model, int32_t unk, const std::string& file) {
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    PieceType& type = model.pieces[id].type;
    if (type == PieceType::kUnknown && unk == kNoToken) unk = static_cast<int32_t>(id);
    if (type == PieceType::kUnknown) type = PieceType::kControl;
  }
  require(unk != kNoToken, "{}: the vocabulary has no unknown token", file);
  model.unk = unk;
  model.pieces[unk].type = PieceType::kUnknown;
}

std::unique_ptr<Tokenizer> load_sentencepiece(const GgufFile& gguf) {
  const std::string file = gguf.path().string();
  static constexpr const char* kScoresKey = "tokenizer.ggml.scores";
  const auto& tokens = gguf.strings(kTokensKey);
  const auto& scores = gguf.numbers(kScoresKey);
  require(scores.size() == tokens.size(), "{}: {} has {} entries for {} tokens", file, kScoresKey,
          scores.size(), tokens.size());
  const auto types = read_types(gguf, tokens.size());
  TokenizerInfo info = read_info(gguf, tokens, types);
  if (!gguf.has("tokenizer.ggml.add_bos_token")) info.adds_bos = true;  // llama.cpp's default
  // The library itself finds those with spaces.
  std::erase_if(info.added, [](const AddedToken& token) {
    return token.text.find(kSpaceMark) != token.text.npos;
  });
  SentencePieceModel model;
  for (size_t id = 0; id < tokens.size(); ++id) {
    model.pieces.push_back({tokens[id], static_cast<float>(scores[id]), types[id]});
  }
  settle_unknown(model, info.unk, file);
  add_control_pieces(model, info);
  info.unk = model.unk;
  model.bos = info.bos;
  model.eos = info.eos;
  model.pad = info.pad;
  model.byte_fallback = std::find(types.begin(), types.end(), PieceType::kByte) != types.end();
  model.prefix = gguf.boolean_or("tokenizer.ggml.add_space_prefix", true) ? SpacePrefix::kAfterAdded
                                                                          : SpacePrefix::kNever;
  add_end_of_generation(info);
  return make_sentencepiece_tokenizer(std::move(model), std::move(info), file);
}

}  // namespace

void add_end_of_generation(TokenizerInfo& info) {
  auto& ends = info.end_of_generation;
  if (info.eos != kNoToken) ends.push_back(info.eos);
  for (const AddedToken& token : info.added) {
    // A chat model ends its turn with one of these, whatever its end-of-text token is.
    for (const char* text : {"<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>",
                             "<|eom_id|>", "<|end|>", "<end_of_turn>"}) {
      if (token.special && token.text == text) ends.push_back(token.id);
    }
  }
  std::sort(ends.begin(), ends.end());
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
}

std::unique_ptr<Tokenizer> load_gguf_tokenizer(const GgufFile& gguf) {
  const std::string& model = gguf.string("tokenizer.ggml.model");
  if (model == "gpt2") return load_bpe(gguf);
  if (model == "llama") return load_sentencepiece(gguf);
  fail(
      "{}: tokenizer.ggml.model is '{}'; known are 'gpt2' (byte-level BPE) and 'llama' "
      "(SentencePiece)",
      gguf.path().string(), model);
}

}  // namespace longgen::tokenizer
