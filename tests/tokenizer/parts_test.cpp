// The parts that tokenizers are made of: UTF-8, merges, pre-tokenisation, streams.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <random>

#include "longgen/base/error.h"
#include "longgen/tokenizer/bpe_merges.h"
#include "longgen/tokenizer/bpe_tokenizer.h"
#include "longgen/tokenizer/byte_tokenizer.h"
#include "longgen/tokenizer/gguf_rules.h"
#include "longgen/tokenizer/pre_tokenizer.h"
#include "longgen/tokenizer/utf8.h"
#include "longgen/tokenizer/word_cache.h"
#include "tests/tokenizer/tokenizer_test_data.h"

namespace longgen::tokenizer::testing {
namespace {

using ::testing::ElementsAre;
using Ids = std::vector<int32_t>;
using Words = std::vector<std::string>;

TEST(Utf8, EveryCodePoint) {
  for (char32_t c = 1; c < 0x110000; c += c < 0x3000 ? 1 : 97) {
    std::string text;
    append_utf8(text, c);
    const bool surrogate = c >= 0xD800 && c < 0xE000;
    ASSERT_EQ(valid_utf8_prefix(text), surrogate ? 0 : text.size()) << static_cast<uint32_t>(c);
    for (size_t n = 1; n < text.size() && !surrogate; ++n) {
      const Utf8Step step = utf8_step(text.substr(0, n));
      ASSERT_EQ(step.kind, Utf8Kind::kIncomplete) << static_cast<uint32_t>(c);
      ASSERT_EQ(step.length, n);
    }
  }
}

// Unicode 15, table 3-8: U+FFFD for each maximal subpart.
TEST(Utf8, MaximalSubparts) {
  const std::string text = "a\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64";
  std::string replaced;
  for (std::string_view rest = text; !rest.empty();) {
    const Utf8Step step = utf8_step(rest);
    replaced += step.kind == Utf8Kind::kCharacter ? std::string(rest.substr(0, step.length)) : "?";
    rest.remove_prefix(step.length);
  }
  EXPECT_EQ(replaced, "a???b?c??d");
  for (const char* bad :
       {"\xC0\xAF", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xFF", "\x80", "\xE0\x80\x80"}) {
    EXPECT_EQ(utf8_step(bad).kind, Utf8Kind::kInvalid) << bad;
    EXPECT_EQ(utf8_step(bad).length, 1u);
  }
}

TEST(Utf8, ByteAlphabet) {
  EXPECT_EQ(to_byte_level(" a\n"),
            "\xC4\xA0"
            "a"
            "\xC4\x8A");  // U+0120, a, U+010A
  for (int b = 0; b < 256; ++b) {
    const std::string byte(1, static_cast<char>(b));
    std::string back = "x";
    EXPECT_TRUE(from_byte_level(to_byte_level(byte), back));
    EXPECT_EQ(back, "x" + byte);
  }
  std::string bytes = "kept";
  for (const char* other : {" ", "\n", "\xE4\xB8\xAD", "\xC5\x90", "\xC4", "\xFF"}) {
    EXPECT_FALSE(from_byte_level(other, bytes)) << other;
    EXPECT_EQ(bytes, "kept");
  }
}

// Byte by byte: a character comes out with its last byte, damage as soon as it is certain.
TEST(StreamDecoder, EveryByte) {
  const auto tokenizer = make_byte_tokenizer();
  StreamDecoder stream(*tokenizer);
  const auto push = [&](const std::string& bytes) {
    Words parts;
    for (const char byte : bytes) parts.push_back(stream.push(static_cast<uint8_t>(byte)));
    return parts;
  };
  const std::string bad = "\xEF\xBF\xBD";
  EXPECT_THAT(push("a\xC3\xA9"), ElementsAre("a", "", "\xC3\xA9"));
  EXPECT_THAT(push("\xE4\xB8\xAD"), ElementsAre("", "", "\xE4\xB8\xAD"));
  EXPECT_THAT(push("\xF0\x9F\x98\x80"), ElementsAre("", "", "", "\xF0\x9F\x98\x80"));
  EXPECT_THAT(push("\xF0\x9F"
                   "a"),
              ElementsAre("", "", bad + "a"));
  EXPECT_THAT(push("\xFF\x80"), ElementsAre(bad, bad));
  EXPECT_THAT(push("\xE4\xE4\xB8\xAD"), ElementsAre("", bad, "", "\xE4\xB8\xAD"));
  EXPECT_THAT(push("\xF0\x9F"), ElementsAre("", ""));
  EXPECT_EQ(stream.finish(), bad);
  EXPECT_EQ(stream.finish(), "");
  EXPECT_THAT(push("ok"), ElementsAre("o", "k"));
}

// The definition: again and again the leftmost pair of lowest rank. A pair's rank is its last.
void merge_naively(Ids& symbols, const std::vector<BpeMerges::Rule>& rules) {
  for (;;) {
    size_t best_rule = rules.size(), best_place = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      size_t rule = rules.size();
      for (size_t r = 0; r < rules.size(); ++r) {
        if (rules[r].left == symbols[i] && rules[r].right == symbols[i + 1]) rule = r;
      }
      if (rule < best_rule) {
        best_rule = rule;
        best_place = i;
      }
    }
    if (best_rule == rules.size()) return;
    symbols[best_place] = rules[best_rule].merged;
    symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(best_place) + 1);
  }
}

TEST(BpeMerges, SameAsTheDefinition) {
  std::mt19937 random(8);
  for (int round = 0; round < 300; ++round) {
    const int32_t alphabet = 2 + static_cast<int32_t>(random() % 4);
    std::vector<BpeMerges::Rule> rules;
    for (int32_t id = alphabet; id < alphabet + 12; ++id) {
      const auto any = [&] { return static_cast<int32_t>(random() % static_cast<uint32_t>(id)); };
      rules.push_back({any(), any(), id});
    }
    const BpeMerges merges(rules);
    BpeMerges::Scratch scratch;
    for (int word = 0; word < 20; ++word) {
      // Longer words are cut where nothing joins; the longest are merged rank by rank.
      const size_t length = word > 0 ? random() % 40 : round % 100 == 0 ? 4200 : random() % 160;
      Ids symbols;
      for (size_t n = length; n > 0; --n) {
        symbols.push_back(static_cast<int32_t>(random() % static_cast<uint32_t>(alphabet)));
      }
      Ids expected = symbols;
      merge_naively(expected, rules);
      merges.apply(symbols, scratch);
      ASSERT_EQ(symbols, expected) << length;
    }
  }
}

// Rules that take tokens which later rules make: a pair of a lower rank may come late.
TEST(BpeMerges, RanksNeedNotGrow) {
  std::mt19937 random(9);
  for (int round = 0; round < 300; ++round) {
    std::vector<BpeMerges::Rule> rules;
    for (int32_t id = 3; id < 12; ++id) {
      const auto any = [&] { return static_cast<int32_t>(random() % 12); };
      rules.push_back({any(), any(), id});
    }
    const BpeMerges merges(rules);
    BpeMerges::Scratch scratch;
    for (const size_t length : {size_t{10}, size_t{60}, round % 100 == 0 ? size_t{4200} : 0}) {
      Ids symbols;
      for (size_t n = length; n > 0; --n) symbols.push_back(static_cast<int32_t>(random() % 3));
      Ids expected = symbols;
      merge_naively(expected, rules);
      merges.apply(symbols, scratch);
      ASSERT_EQ(symbols, expected) << length;
    }
  }
}

TEST(WordCache, KeepsWhatItWasGiven) {
  WordCache cache;
  size_t found = 0;
  // More words than the cache holds, so that it grows and starts afresh.
  for (int i = 0; i < 200'000; ++i) {
    const std::string word = fmt::format("w{}", i);
    const Ids ids(static_cast<size_t>(1 + i % 5), i);
    Ids known;
    ASSERT_FALSE(cache.append(word, known)) << word;
    cache.insert(word, ids);
    if (!cache.append(fmt::format("w{}", i / 2), known)) continue;
    ++found;
    ASSERT_EQ(known, Ids(static_cast<size_t>(1 + (i / 2) % 5), i / 2));
  }
  EXPECT_GT(found, 50'000u);
}

TEST(BpeTokenizer, NormalisesToNfc) {
  BpeData data;
  data.file = "test";
  for (int b = 0; b < 256; ++b)
    data.pieces.push_back(to_byte_level(std::string(1, static_cast<char>(b))));
  data.pre = named_rules("qwen2", "test").pre;
  data.normalizer = named_rules("qwen2", "test").normalizer;
  const auto tokenizer = BpeTokenizer::make(std::move(data));
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("e\xCC\x81 \xFF x")), "\xC3\xA9 \xFF x");
}

}  // namespace
}  // namespace longgen::tokenizer::testing
