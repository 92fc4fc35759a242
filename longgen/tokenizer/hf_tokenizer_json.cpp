#include "longgen/tokenizer/hf_tokenizer_json.h"

#include <algorithm>

#include "longgen/base/error.h"
#include "longgen/tokenizer/bpe_tokenizer.h"
#include "longgen/tokenizer/byte_tokenizer.h"
#include "longgen/tokenizer/sentencepiece_model.h"
#include "longgen/tokenizer/utf8.h"

namespace longgen::tokenizer {
namespace {

using formats::describe_json;
using formats::Json;
using formats::JsonObject;

constexpr int64_t kMaxId = static_cast<int64_t>(kMaxVocabulary) - 1;

void put_token(HfTokenizer& result, const std::string& text, int32_t id, const std::string& where) {
  require(!text.empty(), "{}: token {} is empty", where, id);
  if (result.pieces.size() <= static_cast<size_t>(id)) {
    result.pieces.resize(id + 1);
    result.in_model.resize(id + 1, false);
  }
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
    result.in_model[id] = true;
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
  result.byte_fallback = model.boolean_or("byte_fallback", false);
  result.ignore_merges = model.boolean_or("ignore_merges", false);
  result.unknown_token = model.string_or("unk_token", "");
  result.fuse_unknown = model.boolean_or("fuse_unk", false);
  read_vocabulary(model, result);
  read_merges(model, result);
}

std::vector<AddedToken> read_added_tokens(const JsonObject& root) {
  std::vector<AddedToken> tokens;
  const Json* list = root.find("added_tokens");
  if (list == nullptr) return tokens;
  require(list->is_array(), "{}: added_tokens is {}, not an array", root.where(),
          describe_json(*list));
  for (size_t i = 0; i < list->size(); ++i) {
    const JsonObject entry((*list)[i], fmt::format("{}: added_tokens[{}]", root.where(), i));
    tokens.push_back(read_added_token(entry, static_cast<int32_t>(entry.integer("id", 0, kMaxId))));
  }
  return tokens;
}

bool is_byte_vocabulary(const HfTokenizer& parsed) {
  if (!parsed.merges.empty() || !parsed.pipeline.normalizer.empty()) return false;
  if (parsed.pipeline.pre !=
      std::vector<PreTokenizerStep>{{.kind = PreTokenizerStep::Kind::kByteAlphabet}})
    return false;
  if (parsed.pieces.size() != 256 + parsed.info.added.size()) return false;
  for (const AddedToken& token : parsed.info.added) {
    if (token.id < 256 || token.normalized) return false;
  }
  for (int b = 0; b < 256; ++b) {
    std::string bytes;
    if (!from_byte_level(parsed.pieces[b], bytes) || bytes != std::string(1, static_cast<char>(b)))
      return false;
  }
  return true;
}

// By id what tokens of characters stand for in a text.
std::vector<std::string> decoded_pieces(const HfTokenizer& parsed) {
  const Normalizer replacements(parsed.pipeline.replacements, parsed.file + ": decoder");
  Regex::Scratch scratch;
  std::vector<std::string> texts;
  texts.reserve(parsed.pieces.size());
  for (const std::string& piece : parsed.pieces) {
    texts.push_back(replacements.apply(piece, scratch));
    const int byte = parsed.pipeline.decodes_bytes ? byte_of_piece(texts.back()) : -1;
    if (byte >= 0) texts.back() = std::string(1, static_cast<char>(byte));
  }
  return texts;
}

std::unique_ptr<Tokenizer> make_bpe(HfTokenizer parsed) {
  BpeData data;
  data.file = parsed.file;
  if (!parsed.unknown_token.empty()) {
    data.unknown_symbol = parsed.find(parsed.unknown_token);
    require(data.unknown_symbol != kNoToken, "{}: model.unk_token '{}' is not in the vocabulary",
            parsed.file, parsed.unknown_token);
    if (parsed.info.unk == kNoToken) parsed.info.unk = data.unknown_symbol;
  }
  data.byte_level = parsed.pipeline.byte_level;
  if (!data.byte_level) parsed.info.token_bytes = decoded_pieces(parsed);
  data.pieces = std::move(parsed.pieces);
  data.in_model = std::move(parsed.in_model);
  data.merges = std::move(parsed.merges);
  data.normalizer = std::move(parsed.pipeline.normalizer);
  data.pre = std::move(parsed.pipeline.pre);
  data.byte_fallback = parsed.byte_fallback;
  data.ignore_merges = parsed.ignore_merges;
  data.fuse_unknown = parsed.fuse_unknown;
  data.dropped_at_start = parsed.pipeline.dropped_at_start;
  data.dropped_behind_added = parsed.pipeline.dropped_behind_added;
  data.info = std::move(parsed.info);
  auto tokenizer = BpeTokenizer::make(std::move(data));
  require(
      !parsed.byte_fallback || !parsed.pipeline.byte_level || tokenizer->missing_bytes().empty(),
      "{}: model.byte_fallback is true where the vocabulary has no token for some bytes and the "
      "pre_tokenizer is ByteLevel, which is not supported",
      parsed.file);
  return tokenizer;
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
  token.normalized = object.boolean_or("normalized", !token.special);
  return token;
}

HfTokenizer parse_tokenizer_json(const Json& json, const std::string& file) {
  const JsonObject root(json, file);
  HfTokenizer result;
  result.file = file;
  read_model(root.object("model"), result);
  result.info.added = read_added_tokens(root);
  const size_t count = result.ids.size() + result.info.added.size();
  for (const AddedToken& token : result.info.added) {
    check_id(token.id, count, token.text, file + ": added_tokens");
    put_token(result, token.text, token.id, file + ": added_tokens");
  }
  result.pipeline = parse_pipeline(root);
  if (const std::string& bos = result.pipeline.leading_token; !bos.empty()) {
    result.info.bos = result.find(bos);
    require(result.info.bos != kNoToken,
            "{}: post_processor: the special token '{}' is not in the vocabulary", file, bos);
    result.info.adds_bos = true;
  }
  return result;
}

std::unique_ptr<Tokenizer> make_hf_tokenizer(HfTokenizer parsed) {
  if (is_byte_vocabulary(parsed)) {
    return std::make_unique<ByteTokenizer>(std::move(parsed.info), parsed.file);
  }
  return make_bpe(std::move(parsed));
}

}  // namespace longgen::tokenizer
