// Tokenizers of every family's shape against the `tokenizers` package
// (tests/golden/make_tokenizer_families.py).
#include <algorithm>
#include <fstream>
#include <set>

#include "longgen/base/error.h"
#include "longgen/tokenizer/gguf_rules.h"
#include "longgen/tokenizer/pre_tokenizer.h"
#include "longgen/tokenizer/tokenizer.h"
#include "tests/tokenizer/tokenizer_test_data.h"

namespace longgen::tokenizer::testing {
namespace {

using formats::Json;
using Ids = std::vector<int32_t>;

std::vector<std::string> golden_texts() {
  return formats::read_json_file(golden_file("texts.json")).get<std::vector<std::string>>();
}

std::vector<size_t> lengths_of_pieces(const PreTokenizer& pre, const std::string& text) {
  Regex::Scratch scratch;
  std::vector<size_t> lengths;
  pre.split(text, PreTokenizer::Place::kTextStart, scratch,
            [&](std::string_view word) { lengths.push_back(word.size()); });
  return lengths;
}

void check_lengths(const PreTokenizer& pre, const Json& expected,
                   const std::vector<std::string>& texts, const std::string& what) {
  ASSERT_EQ(expected.size(), texts.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(lengths_of_pieces(pre, texts[i]), expected[i].get<std::vector<size_t>>())
        << what << " on text " << i << ": " << texts[i];
  }
}

// Each alternative of Llama-3's and Qwen2's expressions alone, and the whole.
TEST(GoldenSplits, Llama3AndQwen2RuleByRule) {
  const auto texts = golden_texts();
  const Json rows = formats::read_json_file(golden_file("splits.json"));
  ASSERT_EQ(rows.size(), 16u);
  for (const Json& row : rows) {
    const auto pattern = row["pattern"].get<std::string>();
    check_lengths(PreTokenizer({{.text = pattern}}, "test"), row["lengths"], texts, pattern);
  }
  // The last of each are the named rules themselves.
  for (const size_t last : {7u, 15u}) {
    const auto named = named_rules(rows[last]["name"].get<std::string>(), "test").pre;
    EXPECT_EQ(named.front().text, rows[last]["pattern"].get<std::string>());
  }
}

TEST(GoldenSplits, NamedRules) {
  const auto texts = golden_texts();
  const Json rows = formats::read_json_file(golden_file("named-rules.json"));
  EXPECT_EQ(rows.size(), 11u);
  for (const Json& row : rows) {
    const auto name = row["name"].get<std::string>();
    check_lengths(PreTokenizer(named_rules(name, "test").pre, "test"), row["lengths"], texts, name);
  }
}

// As the package decodes: bytes that are no text become U+FFFD.
std::string decoded_as_text(const Tokenizer& tokenizer, const Ids& ids) {
  StreamDecoder stream(tokenizer);
  std::string text;
  for (const int32_t id : ids) text += stream.push(id);
  return text + stream.finish();
}

class Family : public ::testing::TestWithParam<const char*> {
 protected:
  static fs::path own_path() {
    return golden_file(std::string("families/") + GetParam() + ".tokenizer.json");
  }
  static Json own_file() { return formats::read_json_file(own_path()); }
  static std::unique_ptr<Tokenizer> load() {
    const ScratchFolder directory;
    fs::copy_file(own_path(), directory.path() / "tokenizer.json");
    return load_tokenizer(directory.path());
  }
};

TEST_P(Family, IdsAndTextAreThoseOfTokenizers) {
  const auto tokenizer = load();
  const auto texts = golden_texts();
  const Json rows =
      formats::read_json_file(golden_file(std::string("families/") + GetParam() + ".json"));
  ASSERT_EQ(rows.size(), texts.size());
  std::set<int32_t> added_ids;
  const Json own = own_file();
  for (const Json& token : own["added_tokens"]) added_ids.insert(token["id"].get<int32_t>());
  for (size_t i = 0; i < texts.size(); ++i) {
    const Json& row = rows[i];
    const auto ids = row["ids"].get<Ids>();
    EXPECT_EQ(tokenizer->encode(texts[i], {.parse_special = true}), ids) << i << ": " << texts[i];
    const auto plain = row.value("plain", ids);
    EXPECT_EQ(tokenizer->encode(texts[i]), plain) << "plain " << i << ": " << texts[i];
    EXPECT_EQ(tokenizer->adds_bos(), row.contains("bos"));
    if (row.contains("bos")) {
      EXPECT_EQ(tokenizer->bos_id(), row["bos"].get<int32_t>());
    }
    // Behind added tokens the package leaves the space that encoding put there.
    const bool added =
        std::any_of(plain.begin(), plain.end(), [&](int32_t id) { return added_ids.contains(id); });
    if (!added) {
      EXPECT_EQ(decoded_as_text(*tokenizer, plain), row.value("decoded", texts[i])) << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, Family,
                         ::testing::Values("llama-3", "qwen2", "gpt-neox", "smollm", "falcon",
                                           "deepseek-v3", "gpt-2-prefix", "llama-2",
                                           "llama-2-normalized", "phi-3", "mistral", "yi",
                                           "metaspace", "few-bytes", "few-bytes-fused",
                                           "added-tokens", "normalizers", "splits", "whitespace"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// OPT's directories hold GPT-2's files alone. The ids are Transformers' (GPT2Tokenizer).
TEST(Gpt2Files, AreReadWithoutTokenizerJson) {
  const Json model =
      formats::read_json_file(golden_file("families/gpt-2-prefix.tokenizer.json"))["model"];
  Json vocabulary = model["vocab"];
  for (const char* token : {"</s>", "<pad>", "<unk>"}) vocabulary.emplace(token, vocabulary.size());
  const ScratchFolder directory;
  const auto write = [&](const char* name, const std::string& text) {
    std::ofstream(directory.path() / name) << text;
  };
  std::string merges = "#version: 0.2\n";
  for (const Json& merge : model["merges"]) {
    merges += merge[0].get<std::string>() + " " + merge[1].get<std::string>() + "\n";
  }
  write("vocab.json", vocabulary.dump());
  write("merges.txt", merges);
  write("tokenizer_config.json", R"({"tokenizer_class": "GPT2Tokenizer", "add_bos_token": true,
      "bos_token": {"content": "</s>"}, "eos_token": "</s>"})");
  write("special_tokens_map.json", R"({"pad_token": "<pad>", "unk_token": "<unk>"})");
  const auto tokenizer = load_tokenizer(directory.path());
  EXPECT_TRUE(tokenizer->adds_bos());
  EXPECT_EQ(
      tokenizer->encode("Hello world's  12</s> x<pad>", {.add_bos = true, .parse_special = true}),
      (Ids{700, 39, 419, 78, 452, 314, 416, 220, 220, 16, 17, 700, 220, 87, 701}));
  EXPECT_EQ(tokenizer->eos_id(), 700);
  EXPECT_EQ(tokenizer->pad_id(), 701);
  EXPECT_EQ(tokenizer->unk_id(), 702);

  write("tokenizer_config.json", R"({"tokenizer_class": "Qwen2Tokenizer"})");
  EXPECT_THROW(load_tokenizer(directory.path()), Error);
}

}  // namespace
}  // namespace longgen::tokenizer::testing
