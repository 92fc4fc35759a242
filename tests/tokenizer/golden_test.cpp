// Ids that Hugging Face's tokenizers (SmolLM2) and SentencePiece (Llama-2) give.
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
