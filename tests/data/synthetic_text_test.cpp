#include "longgen/data/synthetic_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <regex>

#include "longgen/base/error.h"

namespace longgen::data {
namespace {

using ::testing::HasSubstr;

std::vector<std::string> books() {
  std::string text;
  for (int i = 0; text.size() < 20000; ++i)
    text += fmt::format("Sentence {} says a little more. ", i);
  return {text, "Another book. " + text};
}

TEST(SyntheticTextTest, DocumentsHaveExactlyTheBytesAskedFor) {
  const auto text = books();
  SyntheticText source(text, 1, 0);
  for (const int64_t bytes : {511, 1023, 2047, 4095}) {
    for (int i = 0; i < 200; ++i) {
      ASSERT_EQ(source.plain(bytes).size(), static_cast<size_t>(bytes));
      ASSERT_EQ(source.needles(bytes).size(), static_cast<size_t>(bytes));
      ASSERT_EQ(source.exercise(bytes).size(), static_cast<size_t>(bytes));
    }
  }
}

// Every answer at the end of a document repeats digits that were stated before its question.
TEST(SyntheticTextTest, EveryQuestionHasItsAnswerInTheText) {
  const auto text = books();
  SyntheticText source(text, 2, 0);
  const std::regex question("What is the ([a-z ]+)\\? The \\1 is ([0-9]{5})\\.");
  int questions = 0;
  for (int i = 0; i < 300; ++i) {
    const std::string document = source.needles(i % 2 == 0 ? 511 : 2047);
    for (std::sregex_iterator it(document.begin(), document.end(), question), end; it != end;
         ++it) {
      ++questions;
      const std::string before = document.substr(0, static_cast<size_t>(it->position()));
      EXPECT_THAT(before, HasSubstr(fmt::format("he {} is {}", it->str(1), it->str(2))))
          << document;
    }
  }
  EXPECT_GT(questions, 300);
}

TEST(SyntheticTextTest, SeedAndStreamDecide) {
  const auto text = books();
  EXPECT_EQ(SyntheticText(text, 1, 0).needles(511), SyntheticText(text, 1, 0).needles(511));
  EXPECT_NE(SyntheticText(text, 1, 0).needles(511), SyntheticText(text, 2, 0).needles(511));
  EXPECT_NE(SyntheticText(text, 1, 0).needles(511), SyntheticText(text, 1, 1).needles(511));
}

TEST(SyntheticTextTest, AsciiKeepsWhatCanBeSaid) {
  EXPECT_EQ(to_ascii("\u201cIt\u2019s\u201d \u2014 caf\u00e9\r\n\u2026"), "\"It's\" -- caf\n...");
}

TEST(SyntheticTextTest, RefusesTooLittleText) {
  const std::vector<std::string> none, small = {"short"};
  EXPECT_THROW(SyntheticText(none, 1, 0), Error);
  EXPECT_THROW(SyntheticText(small, 1, 0), Error);
}

}  // namespace
}  // namespace longgen::data
