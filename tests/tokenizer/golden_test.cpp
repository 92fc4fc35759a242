// Ids that Hugging Face's tokenizers (SmolLM2) and SentencePiece (Llama-2) give.
#include <fmt/format.h>

#include <cstring>

#include "longgen/formats/safetensors.h"
#include "tests/tokenizer/tokenizer_test_data.h"

namespace longgen::tokenizer::testing {
namespace {

using formats::Json;

constexpr const char* kBook = "books/heldout/richard-marsh-the-beetle.txt";
constexpr size_t kBookBytes = 300'000;

void check_texts(const Tokenizer& tokenizer, const std::string& name, EncodeOptions options) {
  const Json cases = formats::read_json_file(golden_file(name));
  int checked = 0;
  for (const Json& entry : cases) {
    // "base64" entries are not UTF-8; the reference replaces their bytes, here they survive.
    if (!entry.contains("text")) continue;
    const auto text = entry["text"].get<std::string>();
    EXPECT_EQ(tokenizer.encode(text, options), entry["ids"].get<std::vector<int32_t>>()) << text;
    ++checked;
  }
  EXPECT_GE(checked, 100);
}

void check_book(const Tokenizer& tokenizer, const std::string& name, const fs::path& book) {
  const formats::SafetensorsFile file(golden_file(name));
  const auto& entry = file["ids"];
  std::vector<int32_t> expected(entry.bytes.size() / sizeof(int32_t));
  std::memcpy(expected.data(), entry.bytes.data(), entry.bytes.size());
  const std::string text = read_text_file(book).substr(0, kBookBytes);
  const auto ids = tokenizer.encode(text);
  EXPECT_TRUE(ids == expected) << ids.size() << " ids, expected " << expected.size();
  EXPECT_TRUE(tokenizer.decode(ids) == text);
}

TEST(Golden, SmolLM2Texts) {
  const fs::path model = smollm2_file();
  if (model.empty()) GTEST_SKIP() << kNoData;
  check_texts(*load_tokenizer(model), "smollm2.json", {.parse_special = true});
}

TEST(Golden, SmolLM2Book) {
  const fs::path model = smollm2_file(), book = test_file("LONGGEN_TEST_DATA", kBook);
  if (model.empty() || book.empty()) GTEST_SKIP() << kNoData;
  check_book(*load_tokenizer(model), "smollm2-book.safetensors", book);
}

// FNV-1a of 64 bits, each id as one unit.
std::string digest(const std::vector<int32_t>& ids) {
  uint64_t value = 0xCBF29CE484222325;
  for (const int32_t id : ids) value = (value ^ static_cast<uint32_t>(id)) * 0x100000001B3;
  return fmt::format("{:016x}", value);
}

// 1 MB of three books, and a text of every kind of character beside every other.
TEST(Golden, SmolLM2LongAndHostileTexts) {
  const fs::path model = smollm2_file(), books = test_file("LONGGEN_TEST_DATA", "books/heldout");
  if (model.empty() || books.empty()) GTEST_SKIP() << kNoData;
  const auto tokenizer = load_tokenizer(model);
  const std::string missing = tokenizer->missing_bytes();
  const Json rows = formats::read_json_file(golden_file("smollm2-long.json"));
  ASSERT_EQ(rows.size(), 4u);
  for (const Json& row : rows) {
    const auto name = row["text"].get<std::string>();
    const bool hostile = name == "hostile.txt";
    const std::string text = read_text_file(hostile ? golden_file(name) : books / name)
                                 .substr(0, row["bytes"].get<size_t>());
    const auto ids = tokenizer->encode(text, {.parse_special = true});
    EXPECT_EQ(ids.size(), row["ids"].get<size_t>()) << name;
    EXPECT_EQ(digest(ids), row["fnv1a"].get<std::string>()) << name;
    std::string kept;
    for (const char c : text) {
      if (missing.find(c) == missing.npos) kept += c;
    }
    EXPECT_TRUE(tokenizer->decode(ids) == kept) << name;
  }
}

TEST(Golden, Llama2Texts) {
  const fs::path model = tokenizer_file("ggml-vocab-llama-spm.gguf");
  if (model.empty()) GTEST_SKIP() << kNoData;
  check_texts(*load_tokenizer(model), "llama2.json", {});
}

TEST(Golden, Llama2Book) {
  const fs::path model = tokenizer_file("ggml-vocab-llama-spm.gguf"),
                 book = test_file("LONGGEN_TEST_DATA", kBook);
  if (model.empty() || book.empty()) GTEST_SKIP() << kNoData;
  check_book(*load_tokenizer(model), "llama2-book.safetensors", book);
}

}  // namespace
}  // namespace longgen::tokenizer::testing
