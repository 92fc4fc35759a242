#include <map>
#include <sstream>

#include "longgen/base/error.h"
#include "longgen/base/mapped_file.h"
#include "longgen/formats/json.h"
#include "longgen/tokenizer/hf_tokenizer_json.h"
#include "longgen/tokenizer/load.h"
#include "longgen/tokenizer/sentencepiece_tokenizer.h"

namespace longgen::tokenizer {
namespace {

namespace fs = std::filesystem;
using formats::Json;
using formats::JsonObject;

constexpr size_t kMaxFileBytes = size_t{256} << 20;

// The files of a directory, with what was read of them.
struct Directory {
  fs::path path;
  std::map<std::string, std::string> texts;  // the files that save() writes again
  Json tokenizer, config, special_map;       // null where there is no such file

  std::string name(const char* file) const { return (path / file).string(); }
};

Directory read_directory(const fs::path& path) {
  Directory directory{path, {}, nullptr, nullptr, nullptr};
  for (const char* name :
       {"tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
        "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja"}) {
    std::error_code ignored;
    if (fs::is_regular_file(path / name, ignored)) {
      directory.texts[name] = read_text_file(path / name, kMaxFileBytes);
    }
  }
  const auto parse = [&](const char* name) -> Json {
    const auto text = directory.texts.find(name);
    if (text == directory.texts.end()) return nullptr;
    return formats::parse_json(text->second, directory.name(name));
  };
  directory.tokenizer = parse("tokenizer.json");
  directory.config = parse("tokenizer_config.json");
  directory.special_map = parse("special_tokens_map.json");
  return directory;
}

// The text of a special token in a configuration: a string, or an object with "content"; "" when
// absent.
std::string special_token_text(const Json& json, const std::string& file, const char* key) {
  if (json.is_null()) return "";
  const JsonObject object(json, file);
  const Json* value = object.find(key);
  if (value == nullptr) return "";
  if (value->is_string()) return value->get<std::string>();
  return JsonObject(*value, file + ": " + key).string("content");
}

// Fills bos, eos, pad and unk of `info` where the configuration names tokens of the vocabulary.
void read_special_ids(const Directory& directory, const TokenFinder& find, TokenizerInfo& info) {
  const auto read = [&](const char* key, int32_t& id) {
    std::string text =
        special_token_text(directory.config, directory.name("tokenizer_config.json"), key);
    if (text.empty()) {
      text =
          special_token_text(directory.special_map, directory.name("special_tokens_map.json"), key);
    }
    if (text.empty()) return;
    const int32_t found = find(text);
    require(found != kNoToken, "{}: {} is '{}', which is not in the vocabulary",
            directory.path.string(), key, text);
    id = found;
  };
  read("bos_token", info.bos);
  read("eos_token", info.eos);
  read("pad_token", info.pad);
  read("unk_token", info.unk);
}

// A string, or a list of {"name", "template"} of which "default" counts.
std::string read_chat_template(const Directory& directory) {
  const auto file = directory.texts.find("chat_template.jinja");
  if (file != directory.texts.end()) return file->second;
  if (directory.config.is_null()) return "";
  const std::string name = directory.name("tokenizer_config.json");
  const JsonObject config(directory.config, name);
  const Json* value = config.find("chat_template");
  if (value == nullptr) return "";
  if (!value->is_array()) return config.string("chat_template");
  for (const Json& entry : *value) {
    const JsonObject object(entry, name + ": chat_template");
    if (object.string("name") == "default") return object.string("template");
  }
  return "";
}

void read_settings(const Directory& directory, const TokenFinder& find, TokenizerInfo& info) {
  read_special_ids(directory, find, info);
  info.chat_template = read_chat_template(directory);
  if (!directory.config.is_null()) {
    info.adds_bos = JsonObject(directory.config, directory.name("tokenizer_config.json"))
                        .boolean_or("add_bos_token", info.adds_bos);
  }
  info.source_files = directory.texts;
}

// Tokens that tokenizer_config.json adds to a tokenizer.model.
std::vector<AddedToken> read_added_tokens_decoder(const Directory& directory) {
  std::vector<AddedToken> tokens;
  if (directory.config.is_null()) return tokens;
  const std::string file = directory.name("tokenizer_config.json");
  const JsonObject config(directory.config, file);
  if (!config.has("added_tokens_decoder")) return tokens;
  const JsonObject decoder = config.object("added_tokens_decoder");
  for (const auto& [key, value] : decoder.json().items()) {
    const bool number =
        !key.empty() && key.size() <= 9 && key.find_first_not_of("0123456789") == key.npos;
    if (!number) decoder.fail_at(key, "is not a token id");
    tokens.push_back(
        read_added_token(JsonObject(value, decoder.where() + "." + key), std::stoi(key)));
  }
  return tokens;
}

std::unique_ptr<Tokenizer> load_sentencepiece(const Directory& directory) {
  const std::string file = directory.name("tokenizer.model");
  SentencePieceModel model = parse_sentencepiece_model(directory.texts.at("tokenizer.model"), file);
  TokenizerInfo info;
  info.bos = model.bos;
  info.eos = model.eos;
  info.pad = model.pad;
  info.unk = model.unk;
  info.adds_bos = model.bos != kNoToken;
  info.added = read_added_tokens_decoder(directory);
  for (AddedToken& token : info.added) token.normalized = false;  // the text is not
  add_control_pieces(model, info);
  const TokenFinder find = [&](const std::string& text) -> int32_t {
    for (const AddedToken& token : info.added) {
      if (token.text == text) return token.id;
    }
    for (size_t id = 0; id < model.pieces.size(); ++id) {
      if (model.pieces[id].text == text) return static_cast<int32_t>(id);
    }
    return kNoToken;
  };
  read_settings(directory, find, info);
  add_end_of_generation(info);
  return make_sentencepiece_tokenizer(std::move(model), std::move(info), file);
}

std::unique_ptr<Tokenizer> load_tokenizer_json(const Directory& directory, const Json& json,
                                               const std::string& file) {
  HfTokenizer parsed = parse_tokenizer_json(json, file);
  read_settings(
      directory, [&](const std::string& text) { return parsed.find(text); }, parsed.info);
  add_end_of_generation(parsed.info);
  return make_hf_tokenizer(std::move(parsed));
}

// The lines of merges.txt but its first, which names a version.
Json read_merges_text(const std::string& text) {
  Json merges = Json::array();
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.ends_with('\r')) line.pop_back();
    if (!line.empty() && !line.starts_with("#version")) merges.push_back(line);
  }
  return merges;
}

// The special tokens that the configuration names and those that it lists, as added_tokens.
Json gpt2_added_tokens(const Directory& directory, const JsonObject& vocabulary) {
  std::map<std::string, AddedToken> tokens;
  for (const char* key : {"bos_token", "eos_token", "unk_token", "pad_token"}) {
    std::string text =
        special_token_text(directory.config, directory.name("tokenizer_config.json"), key);
    if (text.empty()) {
      text =
          special_token_text(directory.special_map, directory.name("special_tokens_map.json"), key);
    }
    if (text.empty() || !vocabulary.has(text)) continue;
    const auto id = static_cast<int32_t>(vocabulary.integer(text, 0, kMaxVocabulary));
    tokens[text] = {.id = id, .text = text};
  }
  for (const AddedToken& token : read_added_tokens_decoder(directory)) tokens[token.text] = token;
  Json list = Json::array();
  for (const auto& [text, token] : tokens) {
    list.push_back({{"id", token.id},
                    {"content", text},
                    {"special", token.special},
                    {"lstrip", token.lstrip},
                    {"rstrip", token.rstrip},
                    {"single_word", token.single_word},
                    {"normalized", token.normalized}});
  }
  return list;
}

// GPT-2's vocab.json and merges.txt (OPT has no others) as a tokenizer.json.
Json gpt2_tokenizer_json(const Directory& directory) {
  const Json none = Json::object();
  const JsonObject config(directory.config.is_null() ? none : directory.config,
                          directory.name("tokenizer_config.json"));
  const std::string kind = config.string_or("tokenizer_class", "GPT2Tokenizer");
  if (kind != "GPT2Tokenizer" && kind != "GPT2TokenizerFast") {
    fail(
        "{}: there is no tokenizer.json; vocab.json and merges.txt alone are read only for "
        "GPT2Tokenizer, not for '{}'; copy the model's tokenizer.json there",
        directory.path.string(), kind);
  }
  const std::string file = directory.name("vocab.json");
  const Json vocabulary = formats::parse_json(directory.texts.at("vocab.json"), file);
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", config.boolean_or("add_prefix_space", false)},
                           {"use_regex", true}};
  return {{"model",
           {{"type", "BPE"},
            {"vocab", vocabulary},
            {"merges", read_merges_text(directory.texts.at("merges.txt"))}}},
          {"added_tokens", gpt2_added_tokens(directory, JsonObject(vocabulary, file))},
          {"pre_tokenizer", byte_level},
          {"decoder", byte_level}};
}

}  // namespace

std::unique_ptr<Tokenizer> load_hf_tokenizer(const fs::path& path) {
  const Directory directory = read_directory(path);
  if (!directory.tokenizer.is_null())
    return load_tokenizer_json(directory, directory.tokenizer, directory.name("tokenizer.json"));
  if (directory.texts.contains("tokenizer.model")) return load_sentencepiece(directory);
  if (directory.texts.contains("vocab.json") && directory.texts.contains("merges.txt")) {
    return load_tokenizer_json(directory, gpt2_tokenizer_json(directory),
                               directory.name("vocab.json"));
  }
  fail(
      "{}: there is neither tokenizer.json nor tokenizer.model in this directory; copy the model's "
      "tokenizer files there",
      path.string());
}

}  // namespace longgen::tokenizer
