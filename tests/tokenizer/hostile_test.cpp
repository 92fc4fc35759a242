// Damaged and hostile files: an Error that names the file and the field, never a crash.
#include <fstream>
#include <functional>

#include "longgen/base/error.h"
#include "longgen/tokenizer/byte_tokenizer.h"
#include "longgen/tokenizer/sentencepiece_model.h"
#include "tests/testing/error_of.h"
#include "tests/tokenizer/tokenizer_test_data.h"

namespace longgen::tokenizer::testing {
namespace {

using formats::Json;
using longgen::testing::error_of;

void write(const fs::path& path, std::string_view text) {
  std::ofstream(path, std::ios::binary) << text;
}

// A small tokenizer.json that is right: bytes "a", "b", " ", their merges and one special token.
Json small_tokenizer() {
  return Json::parse(R"({
    "added_tokens": [{"id": 5, "content": "<end>", "special": true}],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
    "post_processor": null,
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "Ġ": 2, "ab": 3, "Ġab": 4},
              "merges": ["a b", ["Ġ", "ab"]]}
  })");
}

std::unique_ptr<Tokenizer> load_json(const Json& json) {
  const ScratchFolder directory;
  write(directory.path() / "tokenizer.json", json.dump());
  return load_tokenizer(directory.path());
}

TEST(TokenizerJson, SmallOneWorks) {
  const auto tokenizer = load_json(small_tokenizer());
  EXPECT_EQ(tokenizer->vocab_size(), 6);
  EXPECT_EQ(tokenizer->encode("ab ab<end>", {.parse_special = true}),
            (std::vector<int32_t>{3, 4, 5}));
  EXPECT_EQ(tokenizer->missing_bytes().size(), 253u);
  EXPECT_EQ(tokenizer->encode("axb"), (std::vector<int32_t>{3})) << "dropped as Hugging Face does";
}

TEST(TokenizerJson, UnknownTokenAndWholeWords) {
  Json json = small_tokenizer();
  json["model"]["unk_token"] = "<end>";
  EXPECT_EQ(load_json(json)->encode("axb"), (std::vector<int32_t>{0, 5, 1}));
  json = small_tokenizer();
  json["model"]["merges"] = Json::array();
  EXPECT_EQ(load_json(json)->encode("ab"), (std::vector<int32_t>{0, 1}));
  json["model"]["ignore_merges"] = true;
  EXPECT_EQ(load_json(json)->encode("ab"), (std::vector<int32_t>{3}));
}

TEST(TokenizerJson, PrefixSpaceAndTemplate) {
  Json json = small_tokenizer();
  json["pre_tokenizer"]["add_prefix_space"] = true;
  EXPECT_EQ(load_json(json)->encode("ab"), (std::vector<int32_t>{4}));
  json = small_tokenizer();
  EXPECT_FALSE(load_json(json)->adds_bos());
  json["post_processor"] = Json::parse(
      R"({"type": "Sequence", "processors": [{"type": "ByteLevel"}, {"type": "TemplateProcessing",
          "single": [{"SpecialToken": {"id": "<end>", "type_id": 0}}, {"Sequence": {"id": "A"}}]}]})");
  EXPECT_TRUE(load_json(json)->adds_bos());
  EXPECT_EQ(load_json(json)->bos_id(), 5);
}

struct Damage {
  const char* pointer;   // JSON pointer to what is replaced
  const char* value;     // by this
  const char* expected;  // in the message
};

class DamagedJson : public ::testing::TestWithParam<Damage> {};

TEST_P(DamagedJson, IsAnErrorThatNamesTheField) {
  const Damage& damage = GetParam();
  Json json = small_tokenizer();
  json[Json::json_pointer(damage.pointer)] = Json::parse(damage.value);
  const std::string message = error_of([&] { load_json(json); });
  EXPECT_NE(message.find("tokenizer.json"), std::string::npos) << message;
  EXPECT_NE(message.find(damage.expected), std::string::npos) << message;
}

INSTANTIATE_TEST_SUITE_P(
    Fields, DamagedJson,
    ::testing::Values(
        Damage{"/model", "3", "model"}, Damage{"/model", "null", "model"},
        Damage{"/model/type", "\"Unigram\"", "Unigram"}, Damage{"/model/type", "[]", "type"},
        Damage{"/model/vocab", "[1, 2]", "vocab"}, Damage{"/model/vocab", "{}", "vocab"},
        Damage{"/model/vocab/a", "\"0\"", "'a'"}, Damage{"/model/vocab/a", "-1", "'a'"},
        Damage{"/model/vocab/a", "1.5", "'a'"},
        Damage{"/model/vocab/a", "18446744073709551615", "'a'"},
        Damage{"/model/vocab/a", "4000000000", "out of range"},
        Damage{"/model/vocab/a", "200000", "out of range"},
        Damage{"/model/vocab/a", "1", "belongs to both"}, Damage{"/model/vocab/", "2", "empty"},
        Damage{"/model/merges", "{}", "merges"}, Damage{"/model/merges", "null", "merges"},
        Damage{"/model/merges/0", "\"ab\"", "merges[0]"},
        Damage{"/model/merges/0", "\"a b c\"", "merges[0]"},
        Damage{"/model/merges/0", "\" b\"", "merges[0]"},
        Damage{"/model/merges/1", "[\"a\"]", "merges[1]"},
        Damage{"/model/merges/1", "[1, 2]", "merges[1]"},
        Damage{"/model/merges/1", "7", "merges[1]"}, Damage{"/model/merges/0", "\"a q\"", "'q'"},
        Damage{"/model/merges/0", "\"b a\"", "'ba'"}, Damage{"/model/dropout", "0.1", "dropout"},
        Damage{"/model/byte_fallback", "true", "byte_fallback"},
        Damage{"/model/fuse_unk", "3", "fuse_unk"},
        Damage{"/model/unk_token", "\"<none>\"", "<none>"},
        Damage{"/model/end_of_word_suffix", "\"</w>\"", "end_of_word_suffix"},
        Damage{"/model/byte_fallback", "\"yes\"", "byte_fallback"},
        Damage{"/added_tokens", "{}", "added_tokens"},
        Damage{"/added_tokens/0", "4", "added_tokens[0]"}, Damage{"/added_tokens/0/id", "-3", "id"},
        Damage{"/added_tokens/0/id", "99999999999", "id"},
        Damage{"/added_tokens/0/id", "4000000", "out of range"},
        Damage{"/added_tokens/0/id", "1", "belongs to both"},
        Damage{"/added_tokens/0/content", "\"\"", "content"},
        Damage{"/added_tokens/0/content", "\"ab\"", "two ids"},
        Damage{"/added_tokens/0/content", "{}", "content"},
        Damage{"/added_tokens/0/special", "\"\"", "special"},
        Damage{"/normalizer", "{\"type\": \"Nmt\"}", "Nmt"},
        Damage{"/normalizer", R"({"type": "Replace", "pattern": {"Regex": "("}, "content": ""})",
               "normalizer: the expression '('"},
        Damage{"/normalizer", R"({"type": "Replace", "pattern": {}, "content": ""})", "String"},
        Damage{"/normalizer", R"({"type": "Prepend", "prepend": 3})", "prepend"},
        Damage{"/normalizer", "[]", "normalizer"},
        Damage{"/normalizer", "{\"type\": \"Sequence\", \"normalizers\": 3}", "normalizers"},
        Damage{"/pre_tokenizer", "null", "decoder"},
        Damage{"/pre_tokenizer", "{\"type\": \"UnicodeScripts\"}", "UnicodeScripts"},
        Damage{"/pre_tokenizer",
               R"({"type": "Metaspace", "replacement": "_", "prepend_scheme": "x"})",
               "prepend_scheme"},
        Damage{
            "/pre_tokenizer",
            R"({"type": "Sequence", "pretokenizers": [{"type": "BertPreTokenizer"}, {"type": "ByteLevel"}]})",
            "BertPreTokenizer"},
        Damage{
            "/pre_tokenizer",
            R"({"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}, {"type": "Metaspace",
                   "replacement": "_"}]})",
            "behind ByteLevel"},
        Damage{"/pre_tokenizer",
               R"({"type": "Sequence", "pretokenizers": [{"type": "Split", "behavior": "Lost",
                   "pattern": {"Regex": "a"}}, {"type": "ByteLevel", "add_prefix_space": false}]})",
               "Lost"},
        Damage{"/pre_tokenizer",
               R"({"type": "Sequence", "pretokenizers": [{"type": "Split", "behavior": "Isolated",
                   "pattern": {"Regex": "(a"}}, {"type": "ByteLevel", "add_prefix_space": false}]})",
               "(a"},
        Damage{"/post_processor",
               R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "?"}}]})",
               "'?'"},
        Damage{"/post_processor", R"({"type": "TemplateProcessing", "single": 4})", "single"},
        Damage{"/post_processor",
               R"({"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}},
                   {"SpecialToken": {"id": "<end>"}}]})",
               "'<end>'"},
        Damage{"/post_processor", R"({"type": "RobertaProcessing"})", "RobertaProcessing"},
        Damage{"/decoder", R"({"type": "WordPiece"})", "WordPiece"},
        Damage{"/decoder", R"({"type": "Metaspace", "replacement": "_"})", "Metaspace"}));

// The decoders of tokenizers over characters.
TEST(TokenizerJson, DecodersThatAreNotSupported) {
  Json json = small_tokenizer();
  json["pre_tokenizer"] = nullptr;
  const auto message = [&](const char* decoder) {
    json["decoder"] = Json::parse(decoder);
    return error_of([&] { load_json(json); });
  };
  EXPECT_EQ(message(R"({"type": "Fuse"})"), "");
  for (const auto& [decoder, expected] : std::vector<std::pair<const char*, const char*>>{
           {R"({"type": "ByteLevel"})", "ByteLevel"},
           {R"({"type": "CTC"})", "CTC"},
           {R"({"type": "Strip", "content": " ", "start": 1, "stop": 0})", "Fuse"},
           {R"({"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "ByteFallback"}]})",
            "ByteFallback"},
           {R"({"type": "Sequence", "decoders": [{"type": "Fuse"},
                {"type": "Strip", "content": "x", "start": 1, "stop": 0}]})",
            "content"},
           {R"({"type": "Sequence", "decoders": [{"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 1}]})",
            "stop"}}) {
    EXPECT_NE(message(decoder).find(expected), std::string::npos) << message(decoder);
  }
}

// An expression that would backtrack for ages stops with an error, or ends at once.
TEST(TokenizerJson, CatastrophicExpressionStops) {
  Json json = small_tokenizer();
  json["pre_tokenizer"] = Json::parse(R"({"type": "Sequence", "pretokenizers": [
      {"type": "Split", "behavior": "Isolated", "pattern": {"Regex": "(a|aa|aaa)+[c-d]"}},
      {"type": "ByteLevel", "add_prefix_space": false}]})");
  const auto tokenizer = load_json(json);
  const std::string message = error_of([&] { tokenizer->encode(std::string(100, 'a') + "b"); });
  EXPECT_NE(message.find("gave up"), std::string::npos) << message;
}

// As Oniguruma's matches: an empty one cuts, too.
TEST(TokenizerJson, EmptyMatchesEnd) {
  Json json = small_tokenizer();
  json["pre_tokenizer"] = Json::parse(R"({"type": "Sequence", "pretokenizers": [
      {"type": "Split", "behavior": "Isolated", "pattern": {"Regex": "x*"}},
      {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]})");
  EXPECT_EQ(load_json(json)->encode("ab ab"), (std::vector<int32_t>{0, 1, 2, 0, 1}));
}

TEST(HuggingFaceDirectory, SideFilesAreChecked) {
  const struct {
    const char *file, *text, *expected;
  } cases[] = {{"tokenizer_config.json", "[]", "tokenizer_config.json"},
               {"tokenizer_config.json", "{", "tokenizer_config.json"},
               {"tokenizer_config.json", R"({"bos_token": 3})", "bos_token"},
               {"tokenizer_config.json", R"({"bos_token": "<none>"})", "<none>"},
               {"tokenizer_config.json", R"({"eos_token": {"text": ""}})", "eos_token"},
               {"tokenizer_config.json", R"({"chat_template": 3})", "chat_template"},
               {"tokenizer_config.json", R"({"chat_template": [1]})", "chat_template"},
               {"tokenizer_config.json", R"({"add_bos_token": "x"})", "add_bos_token"},
               {"special_tokens_map.json", R"({"pad_token": []})", "pad_token"}};
  for (const auto& damaged : cases) {
    const ScratchFolder directory;
    write(directory.path() / "tokenizer.json", small_tokenizer().dump());
    write(directory.path() / damaged.file, damaged.text);
    const std::string message = error_of([&] { load_tokenizer(directory.path()); });
    EXPECT_NE(message.find(damaged.expected), std::string::npos) << damaged.text << ": " << message;
  }
}

TEST(HuggingFaceDirectory, NothingThereIsAnError) {
  const ScratchFolder directory;
  EXPECT_NE(error_of([&] { load_tokenizer(directory.path()); }).find("tokenizer.json"),
            std::string::npos);
}

// Any one byte changed, or the file cut anywhere: an Error, or a tokenizer that works.
void use(const Tokenizer& tokenizer) {
  for (const std::string& text : odd_texts(3, 6)) {
    tokenizer.decode(tokenizer.encode(text, {.parse_special = true}));
  }
}

template <typename Load>
int count_errors(const std::string& good, int damages, Load&& load) {
  std::mt19937 random(7);
  int errors = 0;
  for (int i = 0; i < damages; ++i) {
    std::string bad = good;
    if (i % 3 == 0) {
      bad.resize(random() % good.size());
    } else {
      for (int n = 1 + i % 4; n > 0; --n) bad[random() % bad.size()] = static_cast<char>(random());
    }
    errors += !error_of([&] { use(*load(bad)); }).empty();
  }
  return errors;
}

TEST(DamagedFiles, TokenizerJsonOfBytes) {
  const ScratchFolder good;
  make_byte_tokenizer()->save(good.path());
  const int errors = count_errors(read_text_file(good.path() / "tokenizer.json"), 600,
                                  [](const std::string& text) {
                                    const ScratchFolder directory;
                                    write(directory.path() / "tokenizer.json", text);
                                    return load_tokenizer(directory.path());
                                  });
  EXPECT_GE(errors, 300) << "most damage is noticed";
}

SentencePieceModel small_sentencepiece() {
  SentencePieceModel model;
  model.pieces = {{"<unk>", 0, PieceType::kUnknown}, {"<s>", 0, PieceType::kControl}};
  model.bos = 1;
  for (int b = 0; b < 256; ++b) {
    model.pieces.push_back({fmt::format("<0x{:02X}>", b), 0, PieceType::kByte});
  }
  const std::string mark(kSpaceMark);
  for (const std::string& text :
       {mark, std::string("a"), std::string("b"), std::string("ab"), mark + "ab"}) {
    model.pieces.push_back({text, -static_cast<float>(model.pieces.size())});
  }
  return model;
}

TEST(DamagedFiles, SentencePieceModel) {
  const auto load = [](const std::string& bytes) {
    const ScratchFolder directory;
    write(directory.path() / "tokenizer.model", bytes);
    return load_tokenizer(directory.path());
  };
  const std::string good = serialise_sentencepiece_model(small_sentencepiece(), true);
  EXPECT_EQ(load(good)->encode("ab c"), (std::vector<int32_t>{262, 258, 2 + 'c'}));
  EXPECT_GE(count_errors(good, 600, load), 200) << "every cut file is noticed";
}

TEST(DamagedFiles, SentencePieceVocabularies) {
  const auto message = [](const std::function<void(SentencePieceModel&)>& damage) {
    SentencePieceModel model = small_sentencepiece();
    damage(model);
    const ScratchFolder directory;
    write(directory.path() / "tokenizer.model", serialise_sentencepiece_model(model, true));
    return error_of([&] { load_tokenizer(directory.path()); });
  };
  EXPECT_EQ(message([](auto&) {}), "");
  const auto expect = [&](const char* expected,
                          const std::function<void(SentencePieceModel&)>& damage) {
    const std::string text = message(damage);
    EXPECT_NE(text.find(expected), std::string::npos) << text;
    EXPECT_NE(text.find("tokenizer.model"), std::string::npos) << text;
  };
  expect("already defined", [](auto& model) { model.pieces[259].text = model.pieces[260].text; });
  expect("empty", [](auto& model) { model.pieces[260].text.clear(); });
  expect("UTF-8", [](auto& model) { model.pieces[260].text[0] = '\xFF'; });
  expect("not a number", [](auto& model) { model.pieces[260].score = std::nanf(""); });
  expect("<0xFF>", [](auto& model) { model.pieces[10].text += 'x'; });
  expect("unk_id", [](auto& model) { model.pieces[0].type = PieceType::kControl; });
}

TEST(Gguf, DamagedBytes) {
  const fs::path good = tokenizer_file("ggml-vocab-llama-spm.gguf");
  if (good.empty()) GTEST_SKIP() << kNoData;
  const ScratchFolder directory;
  const fs::path path = directory.path() / "damaged.gguf";
  const int errors = count_errors(read_text_file(good), 60, [&](const std::string& bytes) {
    write(path, bytes);
    return load_tokenizer(path);
  });
  EXPECT_GE(errors, 20) << "every cut file is noticed";
}

// Writes GGUF files that hold metadata only.
class GgufText {
 public:
  void string(const std::string& key, const std::string& value) {
    begin(key, 8);
    put_string(value);
  }
  void integer(const std::string& key, uint32_t value) {
    begin(key, 4);
    put(value);
  }
  void strings(const std::string& key, const std::vector<std::string>& values) {
    begin(key, 9);
    put(uint32_t{8});
    put(uint64_t{values.size()});
    for (const auto& value : values) put_string(value);
  }
  template <typename T>
  void numbers(const std::string& key, uint32_t type, const std::vector<T>& values) {
    begin(key, 9);
    put(type);
    put(uint64_t{values.size()});
    for (const T value : values) put(value);
  }
  std::string file() const {
    GgufText header;
    header.body_ = "GGUF";
    header.put(uint32_t{3});
    header.put(uint64_t{0});
    header.put(count_);
    return header.body_ + body_;
  }

 private:
  template <typename T>
  void put(T value) {
    body_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void put_string(const std::string& text) {
    put(uint64_t{text.size()});
    body_ += text;
  }
  void begin(const std::string& key, uint32_t type) {
    put_string(key);
    put(type);
    ++count_;
  }
  std::string body_;
  uint64_t count_ = 0;
};

struct SmallGguf {
  std::string model = "gpt2", pre = "gpt-2";
  std::vector<std::string> tokens = {"a", "b", "ab", "<end>"}, merges = {"a b"};
  std::vector<int32_t> types = {1, 1, 1, 3};
  std::vector<float> scores;
  uint32_t eos = 3;
};

std::string gguf_message(const std::function<void(SmallGguf&)>& damage) {
  SmallGguf small;
  damage(small);
  GgufText text;
  text.string("tokenizer.ggml.model", small.model);
  text.string("tokenizer.ggml.pre", small.pre);
  text.strings("tokenizer.ggml.tokens", small.tokens);
  text.strings("tokenizer.ggml.merges", small.merges);
  text.numbers("tokenizer.ggml.token_type", 5, small.types);
  if (!small.scores.empty()) text.numbers("tokenizer.ggml.scores", 6, small.scores);
  text.integer("tokenizer.ggml.eos_token_id", small.eos);
  const ScratchFolder directory;
  write(directory.path() / "small.gguf", text.file());
  return error_of([&] { use(*load_tokenizer(directory.path() / "small.gguf")); });
}

TEST(Gguf, DamagedMetadata) {
  EXPECT_EQ(gguf_message([](auto&) {}), "");
  const auto expect = [](const char* expected, const std::function<void(SmallGguf&)>& damage) {
    const std::string message = gguf_message(damage);
    EXPECT_NE(message.find(expected), std::string::npos) << message;
    EXPECT_NE(message.find("small.gguf"), std::string::npos) << message;
  };
  expect("'wordpiece'", [](SmallGguf& g) { g.model = "wordpiece"; });
  expect("'mystery'", [](SmallGguf& g) { g.pre = "mystery"; });
  expect("starcoder", [](SmallGguf& g) { g.pre = "mystery"; });
  expect("tokenizer.ggml.token_type", [](SmallGguf& g) { g.types.pop_back(); });
  expect("tokenizer.ggml.token_type", [](SmallGguf& g) { g.types[0] = 7; });
  expect("tokenizer.ggml.eos_token_id", [](SmallGguf& g) { g.eos = 4; });
  expect("stands twice", [](SmallGguf& g) { g.tokens[1] = g.tokens[0]; });
  expect("'q'", [](SmallGguf& g) { g.merges = {"a q"}; });
  expect("tokenizer.ggml.merges", [](SmallGguf& g) { g.merges = {"ab"}; });
  expect("no token stands for a single byte", [](SmallGguf& g) {
    g.tokens = {"aa", "bb", "cc", "<end>"};
    g.merges = {};
  });
  const auto spm = [](SmallGguf& g) {
    g.model = "llama";
    g.scores = {-1, -2, -3, 0};
    g.types = {1, 1, 1, 2};
  };
  EXPECT_EQ(gguf_message(spm), "");
  expect("tokenizer.ggml.scores", [&](SmallGguf& g) { spm(g), g.scores.pop_back(); });
  expect("tokenizer.ggml.scores", [](SmallGguf& g) { g.model = "llama"; });
  expect("no unknown token", [&](SmallGguf& g) { spm(g), g.types[3] = 3; });
}

}  // namespace
}  // namespace longgen::tokenizer::testing
