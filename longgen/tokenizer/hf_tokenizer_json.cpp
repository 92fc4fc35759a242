#include "longgen/tokenizer/hf_tokenizer_json.h"

#include <algorithm>

#include "longgen/base/error.h"
#include "longgen/tokenizer/byte_tokenizer.h"
#include "longgen/tokenizer/sentencepiece_tokenizer.h"
#include "longgen/tokenizer/utf8.h"

namespace longgen::tokenizer {
namespace {

using formats::describe_json;
using formats::Json;
using formats::JsonObject;

constexpr int64_t kMaxId = static_cast<int64_t>(kMaxVocabulary) - 1;

void put_token(HfTokenizer& result, const std::string& text, int32_t id, const std::string& where) {
  require(!text.empty(), "{}: token {} is empty", where, id);
  if (result.pieces.size() <= static_cast<size_t>(id)) result.pieces.resize(id + 1);
  std::string& piece = result.pieces[id];
  require(piece.empty() || piece == text, "{}: id {} belongs to both '{}' and '{}'", where, id,
          piece, text);
  const auto [other, fresh] = result.ids.emplace(text, id);
  require(fresh || other->second == id, "{}: '{}' has two ids, {} and {}", where, text,
          other->second, id);
  piece = text;
}

// An id far beyond the number of tokens would only make tables of holes.
void check_id(int64_t id, size_t tokens, const std::string& text, const std::string& where) {
  const auto limit = static_cast<int64_t>(2 * tokens + 65536);
  require(id >= 0 && id <= std::min(kMaxId, limit),
          "{}: token '{}' has the id {}, out of range for {} tokens", where, text, id, tokens);
}

void read_vocabulary(const JsonObject& model, HfTokenizer& result) {
  const JsonObject vocabulary = model.object("vocab");
  const size_t count = vocabulary.json().size();
  require(count > 0 && count <= kMaxVocabulary, "{}: {} tokens; 1 to {} are supported",
          vocabulary.where(), count, kMaxVocabulary);
  for (const auto& [text, value] : vocabulary.json().items()) {
    require(value.is_number_integer(), "{}: the id of token '{}' is {}, not an integer",
            vocabulary.where(), text, describe_json(value));
    const auto id =
        value.is_number_unsigned()
            ? static_cast<int64_t>(std::min<uint64_t>(value.get<uint64_t>(), kMaxId + 1))
            : value.get<int64_t>();
    check_id(id, count, text, vocabulary.where());
    put_token(result, text, static_cast<int32_t>(id), vocabulary.where());
  }
}

// "left right", or ["left", "right"].
void read_merges(const JsonObject& model, HfTokenizer& result) {
  const Json& merges = model.at("merges");
  if (!merges.is_array()) model.fail_at("merges", "is " + describe_json(merges) + ", not an array");
  result.merges.reserve(merges.size());
  for (const Json& merge : merges) {
    const bool pair =
        merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string();
    if (pair) {
      result.merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
      continue;
    }
    const std::string text = merge.is_string() ? merge.get<std::string>() : "";
    const size_t space = text.find(' ');
    const bool two = space != text.npos && space > 0 && space + 1 < text.size() &&
                     text.find(' ', space + 1) == text.npos;
    require(two, "{}: merges[{}] is {}, not two tokens", model.where(), result.merges.size(),
            describe_json(merge));
    result.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  }
}

void refuse(const JsonObject& object, const char* key, bool refused) {
  if (refused)
    object.fail_at(key, "is " + describe_json(object.at(key)) + ", which is not supported");
}

void read_model(const JsonObject& model, HfTokenizer& result) {
  const std::string type = model.string_or("type", "BPE");
  require(type == "BPE", "{}: type is '{}'; only BPE is supported", model.where(), type);
  refuse(model, "dropout", model.number_or("dropout", 0, 0, 1) != 0);
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    refuse(model, key, !model.string_or(key, "").empty());
  }
  result.sentencepiece = model.boolean_or("byte_fallback", false);
  result.pre.ignore_merges = model.boolean_or("ignore_merges", false);
  result.unknown_token = model.string_or("unk_token", "");
  const bool fuses = model.boolean_or("fuse_unk", false) && !result.unknown_token.empty();
  refuse(model, "fuse_unk", fuses && !result.sentencepiece);
  read_vocabulary(model, result);
  read_merges(model, result);
}

std::string type_of(const JsonObject& step) { return step.string("type"); }

// The steps of a Sequence, or the one step that stands alone; none when `key` is absent.
std::vector<JsonObject> steps_of(const JsonObject& parent, const char* key, const char* list) {
  std::vector<JsonObject> steps;
  if (!parent.has(key)) return steps;
  const JsonObject step = parent.object(key);
  if (type_of(step) != "Sequence") return {step};
  const Json& entries = step.at(list);
  if (!entries.is_array()) step.fail_at(list, "is " + describe_json(entries) + ", not an array");
  for (size_t i = 0; i < entries.size(); ++i) {
    steps.emplace_back(entries[i], fmt::format("{}.{}[{}]", step.where(), list, i));
  }
  return steps;
}

[[noreturn]] void fail_unknown(const JsonObject& step, const char* known) {
  fail("{}: type '{}' is not supported here (supported: {})", step.where(), type_of(step), known);
}

void read_byte_level_normalizer(const JsonObject& file, HfTokenizer& result) {
  for (const JsonObject& step : steps_of(file, "normalizer", "normalizers")) {
    if (type_of(step) != "NFC") fail_unknown(step, "NFC");
    result.pre.nfc = true;
  }
}

std::string split_pattern(const JsonObject& step) {
  const std::string behavior = step.string("behavior");
  if (behavior != "Isolated") {
    step.fail_at("behavior", "is '" + behavior + "', which is not supported (supported: Isolated)");
  }
  const JsonObject pattern = step.object("pattern");
  if (pattern.has("Regex")) return pattern.string("Regex");
  const std::string text = pattern.string("String");
  if (text.empty() || text.find("\\E") != text.npos)
    step.fail_at("pattern", "is a text that cannot be split at");
  return "\\Q" + text + "\\E";
}

void read_pre_tokenizer(const JsonObject& file, HfTokenizer& result) {
  const auto steps = steps_of(file, "pre_tokenizer", "pretokenizers");
  require(!steps.empty() && type_of(steps.back()) == "ByteLevel",
          "{}: pre_tokenizer: only byte-level BPE is supported, where ByteLevel is the last (or "
          "only) step; "
          "found {}",
          file.where(), steps.empty() ? "none" : type_of(steps.back()));
  for (size_t i = 0; i + 1 < steps.size(); ++i) {
    const std::string type = type_of(steps[i]);
    if (type == "Digits") {
      result.pre.patterns.push_back(steps[i].boolean_or("individual_digits", false)
                                        ? kDigitPattern
                                        : std::string(kDigitPattern) + "+");
    } else if (type == "Split") {
      result.pre.patterns.push_back(split_pattern(steps[i]));
    } else {
      fail_unknown(steps[i], "Digits and Split, then ByteLevel");
    }
  }
  const JsonObject& last = steps.back();
  if (last.boolean_or("use_regex", true)) result.pre.patterns.push_back(kGpt2Pattern);
  result.add_prefix_space = last.boolean_or("add_prefix_space", true);
  if (result.add_prefix_space && steps.size() > 1) {
    last.fail_at("add_prefix_space", "is true behind other steps, which is not supported");
  }
}

// A template that starts with a special token: the model wants it before every text.
void read_post_processor(const JsonObject& file, HfTokenizer& result) {
  for (const JsonObject& step : steps_of(file, "post_processor", "processors")) {
    if (type_of(step) != "TemplateProcessing") continue;
    const Json& single = step.at("single");
    if (!single.is_array() || single.empty() || !single[0].is_object()) {
      step.fail_at("single", "is " + describe_json(single) + ", not a list of pieces");
    }
    const JsonObject first(single[0], step.where() + ".single[0]");
    if (!first.has("SpecialToken")) continue;
    const std::string text = first.object("SpecialToken").string("id");
    result.info.bos = result.find(text);
    require(result.info.bos != kNoToken, "{}: the special token '{}' is not in the vocabulary",
            first.where(), text);
    result.info.adds_bos = true;
  }
}

bool is_byte_vocabulary(const HfTokenizer& parsed) {
  if (!parsed.merges.empty() || parsed.pre.nfc || parsed.add_prefix_space) return false;
  if (parsed.pieces.size() != 256 + parsed.info.added.size()) return false;
  for (const AddedToken& token : parsed.info.added) {
    if (token.id < 256) return false;
  }
  for (int b = 0; b < 256; ++b) {
    std::string bytes;
    if (!from_byte_level(parsed.pieces[b], bytes) || bytes != std::string(1, static_cast<char>(b)))
      return false;
  }
  return true;
}

std::unique_ptr<Tokenizer> make_bpe(HfTokenizer parsed) {
  BpeData data;
  data.file = parsed.file;
  if (!parsed.unknown_token.empty()) {
    data.unknown_symbol = parsed.find(parsed.unknown_token);
    require(data.unknown_symbol != kNoToken, "{}: model.unk_token '{}' is not in the vocabulary",
            parsed.file, parsed.unknown_token);
  }
  data.pieces = std::move(parsed.pieces);
  data.merges = std::move(parsed.merges);
  data.pre = std::move(parsed.pre);
  data.add_prefix_space = parsed.add_prefix_space;
  data.info = std::move(parsed.info);
  return BpeTokenizer::make(std::move(data));
}

// Where tokenizer.json ranks pairs, SentencePiece scores what they make. Returns the score by id, 0
// for pieces that no merge makes.
std::vector<float> scores_of_merges(const HfTokenizer& parsed) {
  std::vector<float> scores(parsed.pieces.size(), 0);
  for (size_t rank = 0; rank < parsed.merges.size(); ++rank) {
    const auto& [left, right] = parsed.merges[rank];
    const int32_t merged = parsed.find(left + right);
    require(merged != kNoToken, "{}: model.merges[{}] makes '{}', which is not in the vocabulary",
            parsed.file, rank, left + right);
    if (scores[merged] == 0) scores[merged] = -static_cast<float>(rank + 1);
  }
  return scores;
}

SentencePieceModel model_of_merges(const HfTokenizer& parsed) {
  const std::vector<float> scores = scores_of_merges(parsed);
  SentencePieceModel model;
  model.unk = parsed.find(parsed.unknown_token);
  require(model.unk != kNoToken, "{}: model.unk_token '{}' is not in the vocabulary", parsed.file,
          parsed.unknown_token);
  for (size_t id = 0; id < parsed.pieces.size(); ++id) {
    const std::string& text = parsed.pieces[id];
    SentencePieceModel::Piece piece{text, scores[id]};
    const bool character = !text.empty() && utf8_step(text).length == text.size();
    piece.in_text = character || scores[id] != 0;
    if (text.empty()) piece.text = fmt::format("<|no token {}|>", id);
    if (byte_of_piece(text) >= 0) piece.type = PieceType::kByte;
    model.pieces.push_back(std::move(piece));
  }
  for (const AddedToken& token : parsed.info.added) {
    model.pieces[token.id].type = token.special ? PieceType::kControl : PieceType::kUserDefined;
  }
  model.pieces[model.unk].type = PieceType::kUnknown;
  return model;
}

std::unique_ptr<Tokenizer> make_sentencepiece(HfTokenizer parsed) {
  SentencePieceModel model = model_of_merges(parsed);
  model.prefix = parsed.prefix.prefix;
  model.prefix_unless_space = parsed.prefix.unless_space;
  if (parsed.info.unk == kNoToken) parsed.info.unk = model.unk;
  return make_sentencepiece_tokenizer(std::move(model), std::move(parsed.info), parsed.file);
}

}  // namespace

AddedToken read_added_token(const JsonObject& object, int32_t id) {
  AddedToken token;
  token.id = id;
  token.text = object.string("content");
  require(!token.text.empty(), "{}: content is empty", object.where());
  token.special = object.boolean_or("special", false);
  token.lstrip = object.boolean_or("lstrip", false);
  token.rstrip = object.boolean_or("rstrip", false);
  token.single_word = object.boolean_or("single_word", false);
  return token;
}

std::vector<AddedToken> read_added_tokens(const Json& json, const std::string& file) {
  std::vector<AddedToken> tokens;
  const Json* list = JsonObject(json, file).find("added_tokens");
  if (list == nullptr) return tokens;
  require(list->is_array(), "{}: added_tokens is {}, not an array", file, describe_json(*list));
  for (size_t i = 0; i < list->size(); ++i) {
    const JsonObject entry((*list)[i], fmt::format("{}: added_tokens[{}]", file, i));
    tokens.push_back(read_added_token(entry, static_cast<int32_t>(entry.integer("id", 0, kMaxId))));
  }
  return tokens;
}

bool is_sentencepiece_json(const Json& json, const std::string& file) {
  return JsonObject(json, file).object("model").boolean_or("byte_fallback", false);
}

SpaceRule read_space_rule(const Json& json, const std::string& file) {
  const JsonObject root(json, file);
  SpaceRule rule;
  for (const JsonObject& step : steps_of(root, "normalizer", "normalizers")) {
    const std::string type = type_of(step);
    if (type == "Prepend" && step.string("prepend") == kSpaceMark) {
      rule.prefix = SpacePrefix::kAfterAdded;
    } else if (type != "Replace" || step.string("content") != kSpaceMark ||
               step.object("pattern").string("String") != " ") {
      fail_unknown(step, "Prepend and Replace of spaces by U+2581");
    }
  }
  for (const JsonObject& step : steps_of(root, "pre_tokenizer", "pretokenizers")) {
    if (type_of(step) != "Metaspace") fail_unknown(step, "Metaspace");
    refuse(step, "split", step.boolean_or("split", true));
    const bool legacy = step.boolean_or("add_prefix_space", true);
    const std::string scheme = step.string_or("prepend_scheme", legacy ? "always" : "never");
    if (scheme == "always") rule = {SpacePrefix::kAfterAdded, true};
    if (scheme == "first") rule = {SpacePrefix::kAtStart, true};
    refuse(step, "prepend_scheme", scheme != "always" && scheme != "first" && scheme != "never");
  }
  return rule;
}

HfTokenizer parse_tokenizer_json(const Json& json, const std::string& file) {
  const JsonObject root(json, file);
  HfTokenizer result;
  result.file = file;
  read_model(root.object("model"), result);
  result.info.added = read_added_tokens(json, file);
  const size_t count = result.ids.size() + result.info.added.size();
  for (const AddedToken& token : result.info.added) {
    check_id(token.id, count, token.text, file + ": added_tokens");
    put_token(result, token.text, token.id, file + ": added_tokens");
  }
  if (result.sentencepiece) {
    result.prefix = read_space_rule(json, file);
  } else {
    read_byte_level_normalizer(root, result);
    read_pre_tokenizer(root, result);
  }
  read_post_processor(root, result);
  return result;
}

std::unique_ptr<Tokenizer> make_hf_tokenizer(HfTokenizer parsed) {
  if (parsed.sentencepiece) return make_sentencepiece(std::move(parsed));
  if (is_byte_vocabulary(parsed)) {
    return std::make_unique<ByteTokenizer>(std::move(parsed.info), parsed.file);
  }
  return make_bpe(std::move(parsed));
}

}  // namespace longgen::tokenizer
