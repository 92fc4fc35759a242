#include <spdlog/spdlog.h>

#include <memory>
#include <string>
#include <vector>

#include "longgen/base/error.h"
#include "longgen/formats/json.h"
#include "longgen/tokenizer/bpe_tokenizer.h"
#include "longgen/tokenizer/hf_tokenizer_json.h"
#include "longgen/tokenizer/load.h"
#include "longgen/tokenizer/sentencepiece_tokenizer.h"
#include "longgen/tokenizer/utf8.h"
#include "tests/fuzz/memory_file.h"
#include "tests/fuzz/target.h"

namespace longgen::fuzz {
namespace {

using namespace tokenizer;
using formats::Json;

constexpr std::string_view kText =
    "Hello, wor1d's <s>\n\n  x\xC3\xA9\xE4\xB8\xAD\xF0\x9F\x98\x80 </s>\xFF\xC3 123<|end|>\t";

void use(const Tokenizer& tokenizer, std::string_view text) {
  for (const bool parse_special : {false, true}) {
    const auto ids = tokenizer.encode(text, {.parse_special = parse_special});
    for (const int32_t id : ids) {
      check(id >= 0 && id < tokenizer.vocab_size(), "ids lie in the vocabulary");
    }
    (void)tokenizer.decode(ids);
    StreamDecoder stream(tokenizer);
    std::string streamed;
    for (const int32_t id : ids) streamed += stream.push(id);
    streamed += stream.finish();
    check(valid_utf8_prefix(streamed) == streamed.size(), "streamed text is UTF-8");
  }
  for (const int32_t id :
       {tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id(), tokenizer.unk_id()}) {
    check(id >= -1 && id < tokenizer.vocab_size(), "special ids lie in the vocabulary");
  }
}

// A tokenizer that was read can be written, and then gives the same ids.
void check_saving(const Tokenizer& tokenizer, std::string_view text) {
  // Vocabularies that are saved as tokenizer.model alone are named in warnings.
  static const bool quiet = [] {
    spdlog::set_level(spdlog::level::off);
    return true;
  }();
  (void)quiet;
  const MemoryFolder folder;  // a new one each time: files of another tokenizer would be read too
  tokenizer.save(folder.path());
  const auto again = load_hf_tokenizer(folder.path());
  check(again->encode(text) == tokenizer.encode(text), "a saved tokenizer gives the same ids");
}

// Every byte, a few merges, an added token of each kind.
std::unique_ptr<Tokenizer> byte_level() {
  static const char* const kFile = "bytes.json";
  Json vocabulary = Json::object();
  int id = 0;
  const auto add = [&](const std::string& text) { vocabulary.emplace(text, id++); };
  for (int byte = 0; byte < 256; ++byte)
    add(to_byte_level(std::string(1, static_cast<char>(byte))));
  Json merges = Json::array();
  for (const auto& [left, right] :
       {std::pair{"h", "e"}, {"l", "l"}, {"he", "ll"}, {"\xC4\xA0", "w"}, {"1", "2"}}) {
    merges.push_back({left, right});
    add(std::string(left) + right);
  }
  const Json json = {
      {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", merges}}},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
      {"decoder", {{"type", "ByteLevel"}}},
      {"added_tokens",
       {{{"id", id}, {"content", "<|end|>"}, {"special", true}},
        {{"id", id + 1}, {"content", "  "}, {"special", false}},
        {{"id", id + 2},
         {"content", "<s>"},
         {"special", true},
         {"lstrip", true},
         {"rstrip", true}}}}};
  return make_hf_tokenizer(parse_tokenizer_json(json, kFile));
}

std::unique_ptr<Tokenizer> sentencepiece() {
  SentencePieceModel model;
  const auto add = [&](std::string text, float score, PieceType type) {
    model.pieces.push_back({std::move(text), score, type});
  };
  add("<unk>", 0, PieceType::kUnknown);
  add("<s>", 0, PieceType::kControl);
  add("</s>", 0, PieceType::kControl);
  for (int byte = 0; byte < 256; ++byte) add(fmt::format("<0x{:02X}>", byte), 0, PieceType::kByte);
  float score = 0;
  for (const char* text :
       {"\xE2\x96\x81", "h", "e", "l", "o", "he", "ll", "hell", "\xE2\x96\x81h", "\xC3\xA9"}) {
    add(text, score -= 1, PieceType::kNormal);
  }
  model.bos = 1;
  model.eos = 2;
  TokenizerInfo info;
  info.bos = 1;
  info.eos = 2;
  info.unk = 0;
  add_control_pieces(model, info);
  return make_sentencepiece_tokenizer(std::move(model), std::move(info), "pieces.model");
}

}  // namespace

// tokenizer.json, and after a line of "=====" a text to encode.
void run_tokenizer_json(std::string_view bytes) {
  constexpr const char* kFile = "tokenizer.json";
  const std::string_view json = next_part(bytes);
  expect_clear_error(kFile, [&] {
    const auto tokenizer =
        make_hf_tokenizer(parse_tokenizer_json(formats::parse_json(json, kFile), kFile));
    use(*tokenizer, kText);
    if (!bytes.empty()) use(*tokenizer, bytes);
  });
}

// The files of a Hugging Face directory in turn.
void run_tokenizer_directory(std::string_view bytes) {
  static const MemoryFolder folder;
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                           "chat_template.jinja", "tokenizer.model"}) {
    const std::string_view part = next_part(bytes);
    if (part.empty()) {
      folder.remove(name);
    } else {
      folder.write(name, part);
    }
  }
  expect_clear_error(folder.path().string(), [&] {
    const auto tokenizer = load_hf_tokenizer(folder.path());
    use(*tokenizer, kText);
    check_saving(*tokenizer, kText);
  });
}

// Hostile text for tokenizers that are whole.
void run_tokenizer_text(std::string_view bytes) {
  static const std::unique_ptr<Tokenizer> kinds[] = {byte_level(), sentencepiece()};
  for (const auto& tokenizer : kinds) use(*tokenizer, bytes);
  // Byte-level BPE without what added tokens swallow loses nothing.
  if (bytes.find("<s>") == bytes.npos) {
    const auto ids = kinds[0]->encode(bytes, {.parse_special = true});
    check(kinds[0]->decode(ids) == bytes, "byte-level BPE gives every byte back");
  }
}

void run_sentencepiece(std::string_view bytes) {
  constexpr const char* kFile = "tokenizer.model";
  expect_clear_error(kFile, [&] {
    SentencePieceModel model = parse_sentencepiece_model(bytes, kFile);
    const bool dummy = model.prefix != SpacePrefix::kNever;
    const SentencePieceModel again =
        parse_sentencepiece_model(serialise_sentencepiece_model(model, dummy), kFile);
    check(again.pieces.size() == model.pieces.size() && again.unk == model.unk,
          "a model that was read can be written and read again");
    TokenizerInfo info;
    info.bos = model.bos;
    info.eos = model.eos;
    info.pad = model.pad;
    info.unk = model.unk;
    add_control_pieces(model, info);
    const auto library = make_sentencepiece_tokenizer(model, info, kFile, PieceFinder::kLibrary);
    use(*library, kText);
    const auto tokenizer = make_sentencepiece_tokenizer(std::move(model), std::move(info), kFile);
    check(tokenizer->encode(kText) == library->encode(kText), "merges find libsentencepiece's ids");
    check_saving(*tokenizer, kText);
  });
}

}  // namespace longgen::fuzz
