// How fast texts become ids, in MB/s of one core's time. Books: 5, a tenth of what an idle machine
// does. Of the worst texts far less is demanded than it does (over 8), and far more than anything
// quadratic could. Sanitizers and builds without optimisation are slower.
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <random>

#include "tests/tokenizer/tokenizer_test_data.h"

namespace longgen::tokenizer::testing {
namespace {

#if defined(NDEBUG) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
constexpr bool kOptimised = true;
#else
constexpr bool kOptimised = false;
#endif

// The best of three runs: the machine may be busy.
double megabytes_per_second(const Tokenizer& tokenizer, const std::string& text) {
  double best = 0;
  for (int run = 0; run < 3; ++run) {
    const std::clock_t start = std::clock();
    const auto ids = tokenizer.encode(text);
    const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    EXPECT_FALSE(ids.empty());
    best = std::max(best, static_cast<double>(text.size()) / 1e6 / std::max(seconds, 1e-6));
  }
  return best;
}

std::string repeated(const std::string& unit, size_t bytes) {
  std::string text;
  while (text.size() < bytes) text += unit;
  return text;
}

std::string random_letters(size_t bytes) {
  std::mt19937 random(1);
  std::string text;
  while (text.size() < bytes) text += static_cast<char>('a' + random() % 26);
  return text;
}

std::string random_words(size_t bytes) {
  std::mt19937 random(2);
  std::string text;
  while (text.size() < bytes)
    text += random() % 6 == 0 ? ' ' : static_cast<char>('a' + random() % 26);
  return text;
}

void measure(const Tokenizer& tokenizer, const fs::path& book) {
  const size_t bytes = 1'000'000;
  const std::pair<const char*, std::string> texts[] = {
      {"book", read_text_file(book)},
      {"random letters in one line", random_letters(bytes)},
      {"random letters and spaces", random_words(bytes)},
      {"one letter", repeated("a", bytes)},
      {"spaces", repeated(" ", bytes)},
      {"line ends", repeated("\n", bytes)},
      {"Chinese in one line", repeated("\xE4\xB8\xAD\xE6\x96\x87\xE5\xAD\x97\xE7\xAC\xA6", bytes)},
      {"starts of special tokens", repeated("<|im_", bytes)}};
  for (const auto& [name, text] : texts) {
    const double speed = megabytes_per_second(tokenizer, text);
    printf("%-28s %7.1f MB/s\n", name, speed);
    EXPECT_GT(speed, kOptimised && std::string_view(name) == "book" ? 5 : 0.5) << name;
  }
}

const char* const kBook = "books/heldout/charles-dickens-oliver-twist.txt";

TEST(Speed, SmolLM2OnBooksAndTheWorst) {
  const fs::path model = smollm2_file(), book = test_file("LONGGEN_TEST_DATA", kBook);
  if (model.empty() || book.empty()) GTEST_SKIP() << kNoData;
  measure(*load_tokenizer(model), book);
}

TEST(Speed, Llama2OnBooksAndTheWorst) {
  const fs::path model = tokenizer_file("ggml-vocab-llama-spm.gguf");
  const fs::path book = test_file("LONGGEN_TEST_DATA", kBook);
  if (model.empty() || book.empty()) GTEST_SKIP() << kNoData;
  measure(*load_tokenizer(model), book);
}

}  // namespace
}  // namespace longgen::tokenizer::testing
