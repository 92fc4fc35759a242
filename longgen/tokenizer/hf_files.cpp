#include "longgen/tokenizer/hf_files.h"

#include <algorithm>

#include "longgen/base/error.h"
#include "longgen/base/log.h"
#include "longgen/formats/json.h"
#include "longgen/tokenizer/pre_tokenizer.h"
#include "longgen/tokenizer/sentencepiece_merges.h"
#include "longgen/tokenizer/utf8.h"

namespace longgen::tokenizer {
namespace {

using Json = formats::OrderedJson;

Json added_token_json(const AddedToken& token) {
  return {{"content", token.text},  {"single_word", token.single_word}, {"lstrip", token.lstrip},
          {"rstrip", token.rstrip}, {"normalized", token.normalized},   {"special", token.special}};
}

std::vector<AddedToken> by_id(std::vector<AddedToken> tokens) {
  std::sort(tokens.begin(), tokens.end(),
            [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  return tokens;
}

Json added_tokens_json(const std::vector<AddedToken>& tokens) {
  Json list = Json::array();
  for (const AddedToken& token : by_id(tokens)) {
    Json entry = {{"id", token.id}};
    entry.update(added_token_json(token));
    list.push_back(std::move(entry));
  }
  return list;
}

// Names of the special tokens, as both configuration files have them.
Json special_token_names(const TokenizerInfo& info) {
  Json names = Json::object();
  const auto put = [&](const char* key, int32_t id) {
    if (id != kNoToken) names[key] = info.token_bytes[id];
  };
  put("bos_token", info.bos);
  put("eos_token", info.eos);
  put("unk_token", info.unk);
  put("pad_token", info.pad);
  return names;
}

Json vocabulary_json(const std::vector<std::string>& pieces) {
  Json::object_t vocabulary;  // filled without the look-up that operator[] would do per token
  for (size_t id = 0; id < pieces.size(); ++id) {
    if (pieces[id].empty()) continue;
    vocabulary.std::vector<std::pair<const std::string, Json>>::emplace_back(pieces[id], id);
  }
  return vocabulary;
}

Json merges_json(const std::vector<std::pair<std::string, std::string>>& merges) {
  Json list = Json::array();
  for (const auto& [left, right] : merges) list.push_back(fmt::format("{} {}", left, right));
  return list;
}

Json byte_level_json(bool add_prefix_space, bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", add_prefix_space},
          {"trim_offsets", true},
          {"use_regex", use_regex}};
}

Json split_json(const PreTokenizerStep& step) {
  if (step.text == kDigitPattern && !step.inverted) {
    if (step.behavior == SplitBehavior::kIsolated)
      return {{"type", "Digits"}, {"individual_digits", true}};
    if (step.behavior == SplitBehavior::kContiguous)
      return {{"type", "Digits"}, {"individual_digits", false}};
  }
  static constexpr const char* kNames[] = {"Isolated", "Removed", "MergedWithPrevious",
                                           "MergedWithNext", "Contiguous"};
  return {{"type", "Split"},
          {"pattern", {{"Regex", step.text}}},
          {"behavior", kNames[static_cast<size_t>(step.behavior)]},
          {"invert", step.inverted}};
}

// A prefix of a space and GPT-2's expression right before the byte alphabet are part of ByteLevel.
Json pre_tokenizer_json(const std::vector<PreTokenizerStep>& pre) {
  using Kind = PreTokenizerStep::Kind;
  const PreTokenizerStep gpt2{.kind = Kind::kSplit, .text = kGpt2Pattern};
  const PreTokenizerStep space{.kind = Kind::kPrefix, .text = " "};
  const PreTokenizerStep alphabet{.kind = Kind::kByteAlphabet};
  Json steps = Json::array();
  for (size_t i = 0; i < pre.size(); ++i) {
    const auto is = [&](size_t at, const PreTokenizerStep& step) {
      return at < pre.size() && pre[at] == step;
    };
    size_t at = i;
    const bool prefixed = is(at, space);
    at += prefixed ? 1 : 0;
    const bool words = is(at, gpt2);
    at += words ? 1 : 0;
    if (is(at, alphabet)) {
      steps.push_back(byte_level_json(prefixed, words));
      i = at;
    } else {
      steps.push_back(split_json(pre[i]));
    }
  }
  if (steps.size() == 1) return steps[0];
  return {{"type", "Sequence"}, {"pretokenizers", steps}};
}

Json normalizer_json(const std::vector<NormalizerStep>& steps) {
  if (steps.empty()) return nullptr;
  require(steps.size() == 1 && steps[0].kind == NormalizerStep::Kind::kNfc,
          "no named rule has a normalizer other than NFC");
  return {{"type", "NFC"}};
}

// Puts the BOS before a text when the model wants one.
Json post_processor_json(const TokenizerInfo& info) {
  if (!info.adds_bos || info.bos == kNoToken) return nullptr;
  const std::string& bos = info.token_bytes[info.bos];
  const Json special = {{"SpecialToken", {{"id", bos}, {"type_id", 0}}}};
  const Json text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const Json second = {{"Sequence", {{"id", "B"}, {"type_id", 1}}}};
  const Json second_special = {{"SpecialToken", {{"id", bos}, {"type_id", 1}}}};
  return {
      {"type", "TemplateProcessing"},
      {"single", Json::array({special, text})},
      {"pair", Json::array({special, text, second_special, second})},
      {"special_tokens",
       {{bos, {{"id", bos}, {"ids", Json::array({info.bos})}, {"tokens", Json::array({bos})}}}}}};
}

Json bpe_model_json(const Json& vocabulary, const Json& merges) {
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", nullptr},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", false},
          {"byte_fallback", false},
          {"ignore_merges", false},
          {"vocab", vocabulary},
          {"merges", merges}};
}

Json tokenizer_json() {
  return {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}};
}

std::string text_of(const Json& json) { return json.dump(2) + "\n"; }

// The files beside tokenizer.json.
FileTexts side_files(const TokenizerInfo& info, const std::vector<AddedToken>& added,
                     const char* tokenizer_class) {
  Json config = {{"tokenizer_class", tokenizer_class},
                 {"add_bos_token", info.adds_bos},
                 {"clean_up_tokenization_spaces", false}};
  const Json names = special_token_names(info);
  config.update(names);
  Json decoder = Json::object();
  for (const AddedToken& token : by_id(added))
    decoder[std::to_string(token.id)] = added_token_json(token);
  config["added_tokens_decoder"] = decoder;
  FileTexts files;
  if (!info.chat_template.empty()) {
    config["chat_template"] = info.chat_template;
    files["chat_template.jinja"] = info.chat_template;
  }
  files["tokenizer_config.json"] = text_of(config);
  files["special_tokens_map.json"] = text_of(names);
  return files;
}

// All added tokens: those of the file, and what the model's own vocabulary marks.
std::vector<AddedToken> marked_tokens(const SentencePieceModel& model, const TokenizerInfo& info) {
  std::vector<AddedToken> tokens = info.added;
  const auto known = [&](int32_t id) {
    return std::any_of(tokens.begin(), tokens.end(),
                       [&](const AddedToken& t) { return t.id == id; });
  };
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    const PieceType type = model.pieces[i].type;
    if (type == PieceType::kNormal || type == PieceType::kByte || type == PieceType::kUnused)
      continue;
    if (known(id)) continue;
    tokens.push_back(
        {.id = id, .text = model.pieces[i].text, .special = type != PieceType::kUserDefined});
  }
  return tokens;
}

const Json kSpaceToMark = {
    {"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", kSpaceMark}};

void put_space_rules(SpacePrefix prefix, Json& json) {
  json["normalizer"] = nullptr;
  json["pre_tokenizer"] = nullptr;
  if (prefix == SpacePrefix::kAfterAdded) {
    const Json prepend = {{"type", "Prepend"}, {"prepend", kSpaceMark}};
    json["normalizer"] = {{"type", "Sequence"},
                          {"normalizers", Json::array({prepend, kSpaceToMark})}};
  } else {
    json["normalizer"] = kSpaceToMark;
  }
}

std::string sentencepiece_tokenizer_json(const SentencePieceModel& model, const TokenizerInfo& info,
                                         const std::vector<AddedToken>& added) {
  Json json = tokenizer_json();
  json["added_tokens"] = added_tokens_json(added);
  put_space_rules(model.prefix, json);
  json["post_processor"] = post_processor_json(info);
  const Json to_space = {
      {"type", "Replace"}, {"pattern", {{"String", kSpaceMark}}}, {"content", " "}};
  Json decoders = Json::array({to_space, {{"type", "ByteFallback"}}, {{"type", "Fuse"}}});
  if (model.prefix != SpacePrefix::kNever) {
    decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  json["decoder"] = {{"type", "Sequence"}, {"decoders", decoders}};
  std::vector<std::string> pieces;
  for (const auto& piece : model.pieces) pieces.push_back(piece.text);
  Json bpe = bpe_model_json(vocabulary_json(pieces), merges_json(merges_of(model)));
  bpe["unk_token"] = model.pieces[model.unk].text;
  bpe["fuse_unk"] = true;
  bpe["byte_fallback"] = model.byte_fallback;
  json["model"] = std::move(bpe);
  return text_of(json);
}

}  // namespace

FileTexts make_bpe_files(const BpeFileContents& contents, const TokenizerInfo& info) {
  Json json = tokenizer_json();
  json["added_tokens"] = added_tokens_json(info.added);
  json["normalizer"] = normalizer_json(contents.normalizer);
  json["pre_tokenizer"] = pre_tokenizer_json(contents.pre);
  json["post_processor"] = post_processor_json(info);
  json["decoder"] = byte_level_json(true, true);
  Json model = bpe_model_json(vocabulary_json(contents.pieces), merges_json(contents.merges));
  if (!contents.unknown_token.empty()) model["unk_token"] = contents.unknown_token;
  model["ignore_merges"] = contents.ignore_merges;
  json["model"] = std::move(model);
  FileTexts files = side_files(info, info.added, "PreTrainedTokenizerFast");
  files["tokenizer.json"] = text_of(json);
  return files;
}

FileTexts make_sentencepiece_files(const SentencePieceModel& model, const TokenizerInfo& info) {
  const std::string difference = why_merges_differ(model, info.added);
  const bool exact = difference.empty();
  const std::vector<AddedToken> added = exact ? marked_tokens(model, info) : info.added;
  FileTexts files = side_files(info, added, exact ? "PreTrainedTokenizerFast" : "LlamaTokenizer");
  files["tokenizer.model"] =
      serialise_sentencepiece_model(model, model.prefix != SpacePrefix::kNever);
  if (exact) {
    files["tokenizer.json"] = sentencepiece_tokenizer_json(model, info, added);
  } else {
    warn(
        "the tokenizer is written as tokenizer.model alone: as tokenizer.json it would give other "
        "ids ({})",
        difference);
  }
  return files;
}

}  // namespace longgen::tokenizer
