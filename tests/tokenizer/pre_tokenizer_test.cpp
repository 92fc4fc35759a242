// How texts are cut into words, and the expressions that cut them.
#include "longgen/tokenizer/pre_tokenizer.h"

#include <gmock/gmock.h>

#include <chrono>

#include "longgen/base/error.h"
#include "longgen/tokenizer/gguf_rules.h"
#include "longgen/tokenizer/utf8.h"
#include "tests/tokenizer/tokenizer_test_data.h"

namespace longgen::tokenizer::testing {
namespace {

using ::testing::ElementsAre;
using Words = std::vector<std::string>;
using Step = PreTokenizerStep;
using Kind = PreTokenizerStep::Kind;
using Place = PreTokenizer::Place;

Words split(const std::vector<Step>& steps, const std::string& text,
            Place place = Place::kTextStart) {
  const PreTokenizer pre(steps, "test");
  Regex::Scratch scratch;
  Words words;
  pre.split(text, place, scratch, [&](std::string_view word) { words.emplace_back(word); });
  return words;
}

Words split(const char* pattern, const std::string& text) {
  return split({Step{.text = pattern}}, text);
}

TEST(PreTokenizer, KnownRules) {
  const auto named = [](const char* name) { return named_rules(name, "test").pre; };
  const std::string text = "I'm  here, 1234\n\n x's CAN'T";
  EXPECT_THAT(split(named("gpt-2"), text), ElementsAre("I", "'m", " ", " here", ",", " 1234",
                                                       "\n\n", " x", "'s", " CAN", "'", "T"));
  EXPECT_THAT(split(named("smollm"), text),
              ElementsAre("I", "'m", " ", " here", ",", " ", "1", "2", "3", "4", "\n\n", " x", "'s",
                          " CAN", "'", "T"));
  EXPECT_THAT(split(named("llama-bpe"), text), ElementsAre("I", "'m", " ", " here", ",", " ", "123",
                                                           "4", "\n\n", " x", "'s", " CAN", "'T"));
  EXPECT_THAT(split(named("qwen2"), text), ElementsAre("I", "'m", " ", " here", ",", " ", "1", "2",
                                                       "3", "4", "\n\n", " x", "'s", " CAN", "'T"));
  EXPECT_THAT(split(std::vector<Step>{}, text), ElementsAre(text));
  EXPECT_THAT(split(named("gpt-2"), ""), ElementsAre());
}

TEST(PreTokenizer, UnknownRulesAreNamed) {
  try {
    named_rules("mystery", "a.gguf");
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("a.gguf: tokenizer.ggml.pre is 'mystery'"));
    EXPECT_THAT(error.what(), ::testing::HasSubstr("deepseek-v3"));
  }
}

TEST(PreTokenizer, WhiteSpaceIsUnicodes) {
  const std::string nbsp = "\xC2\xA0", nel = "\xC2\x85", ideographic = "\xE3\x80\x80",
                    mongolian = "\xE1\xA0\x8E";
  EXPECT_THAT(split("\\s", "a" + nbsp + nel + ideographic + "b"),
              ElementsAre("a", nbsp, nel, ideographic, "b"));
  EXPECT_THAT(split("\\s", mongolian), ElementsAre(mongolian));
  EXPECT_THAT(split("\\S+", mongolian + " a"), ElementsAre(mongolian, " ", "a"));
  EXPECT_THAT(split("[^\\s,]+", "a b,c"), ElementsAre("a", " ", "b", ",", "c"));
}

TEST(Regex, LineEndsAndEscapes) {
  EXPECT_THAT(split("\\s+$", "a  \nb \t"), ElementsAre("a", "  ", "\nb", " \t"));
  EXPECT_THAT(split("^.", "ab\ncd"), ElementsAre("a", "b\n", "c", "d"));
  EXPECT_THAT(split("\\u0062|\\x{64}|\\v", "abcd\v\n"),
              ElementsAre("a", "b", "c", "d", "\v", "\n"));
  EXPECT_THAT(split("[\\[a]+", "[a]"), ElementsAre("[a", "]"));
  EXPECT_THAT(split("x{2}y|{z", "xxy{z"), ElementsAre("xxy", "{z"));
  EXPECT_THAT(split(Regex::quoted("a.b|[\\E(").c_str(), "xa.b|[\\E(axb"),
              ElementsAre("x", "a.b|[\\E(", "axb"));
}

// What Oniguruma and PCRE2 read differently, or only one of them reads.
TEST(Regex, WhatIsReadDifferentlyIsAnError) {
  for (const char* pattern :
       {"[a[bc]]",    "[a-z&&[^b]]",   "[[:alpha:]]", "[]a]",     "[^]a]",   "(?m:a.b)",
        "(?<name>a)", "(?P<n>a)",      "(?R)",        "(?#note)", "(*UTF)a", "(*ACCEPT)",
        "\\h",        "\\H",           "\\R",         "\\X",      "\\K",     "\\G",
        "\\b",        "\\1",           "\\Qa\\E",     "\\xE9",    "\\pL",    "a{2}+",
        "a{1,2}?",    "a{,3}",         "[\\S]",       "[\\W]",    "(",       "[a",
        "a\\",        "\\p{Nonsense}", "\\u12",       "a**b)"}) {
    try {
      split(pattern, "text");
      ADD_FAILURE() << pattern;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), ::testing::HasSubstr(pattern));
      EXPECT_THAT(error.what(), ::testing::HasSubstr("test: "));
    }
  }
}

TEST(PreTokenizer, PrefixOnlyWhereItBelongs) {
  const Step every{.kind = Kind::kPrefix, .text = "_"};
  const Step first{.kind = Kind::kPrefix, .text = "_", .only_first = true};
  EXPECT_THAT(split({every}, "a"), ElementsAre("_a"));
  EXPECT_THAT(split({every}, "_a"), ElementsAre("_a"));
  EXPECT_THAT(split({every}, "a", Place::kPieceStart), ElementsAre("_a"));
  EXPECT_THAT(split({every}, "a", Place::kInside), ElementsAre("a"));
  EXPECT_THAT(split({first}, "a"), ElementsAre("_a"));
  EXPECT_THAT(split({first}, "a", Place::kPieceStart), ElementsAre("a"));
  EXPECT_THAT(split({Step{.text = ","}, every}, "a,b"), ElementsAre("_a", "_,", "_b"));
  EXPECT_THAT(split({Step{.text = ","}, first}, "a,b"), ElementsAre("_a", ",", "b"));
}

// "Digits, then GPT-2" runs as one expression; it must cut where the two in turn do.
TEST(PreTokenizer, OnePassEqualsTwo) {
  const PreTokenizer fused({{.text = kDigitPattern}, {.text = kGpt2Pattern}}, "test");
  const PreTokenizer digits({{.text = kDigitPattern}}, "test"),
      words({{.text = kGpt2Pattern}}, "test");
  Regex::Scratch scratch;
  for (const std::string& text : odd_texts(3000, 9)) {
    Words one, two;
    for_each_utf8_run(
        text,
        [&](std::string_view valid) {
          const Place place = Place::kTextStart;
          fused.split(valid, place, scratch,
                      [&](std::string_view word) { one.emplace_back(word); });
          digits.split(valid, place, scratch, [&](std::string_view piece) {
            words.split(piece, place, scratch,
                        [&](std::string_view word) { two.emplace_back(word); });
          });
        },
        [](std::string_view) {});
    ASSERT_EQ(one, two) << text;
  }
}

// Every named rule on long runs of one kind: a step per character, not per pair of them.
TEST(PreTokenizer, LongRunsAreNotQuadratic) {
  for (const char* name : {"gpt-2", "smollm", "falcon", "llama-bpe", "qwen2", "tekken", "gpt-4o",
                           "deepseek-llm", "deepseek-coder", "deepseek-v3"}) {
    const PreTokenizer pre(named_rules(name, "test").pre, "test");
    Regex::Scratch scratch;
    for (const std::string unit :
         {"a", " ", "\n", "1", "!", "\xE4\xB8\xAD", "\xCC\x81", "Aa", "A"}) {
      std::string text;
      while (text.size() < 300'000) text += unit;
      text += "x";
      size_t bytes = 0;
      const auto start = std::chrono::steady_clock::now();
      pre.split(text, Place::kTextStart, scratch,
                [&](std::string_view word) { bytes += word.size(); });
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
      EXPECT_EQ(bytes, text.size()) << name;
      EXPECT_LT(seconds.count(), 5) << name << " on '" << unit << "'";  // quadratic: 4.5e10 steps
    }
  }
}

}  // namespace
}  // namespace longgen::tokenizer::testing
