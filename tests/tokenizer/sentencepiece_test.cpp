// SentencePiece vocabularies that training would not give, but editing, damage and other tools do.
#include "longgen/tokenizer/sentencepiece_tokenizer.h"

#include <gmock/gmock.h>

#include "longgen/tokenizer/sentencepiece_merges.h"
#include "tests/tokenizer/tokenizer_test_data.h"

namespace longgen::tokenizer::testing {
namespace {

using ::testing::HasSubstr;
using Ids = std::vector<int32_t>;
using Piece = SentencePieceModel::Piece;

// <unk>, <s>, </s>, then the pieces, from id 3 on; without byte fallback.
SentencePieceModel model_of(const std::vector<Piece>& pieces) {
  SentencePieceModel model;
  model.pieces = {{"<unk>", 0, PieceType::kUnknown},
                  {"<s>", 0, PieceType::kControl},
                  {"</s>", 0, PieceType::kControl}};
  model.pieces.insert(model.pieces.end(), pieces.begin(), pieces.end());
  model.bos = 1;
  model.eos = 2;
  model.byte_fallback = false;
  return model;
}

std::unique_ptr<Tokenizer> tokenizer_of(SentencePieceModel model) {
  TokenizerInfo info;
  info.bos = model.bos;
  info.eos = model.eos;
  info.unk = model.unk;
  add_control_pieces(model, info);
  return make_sentencepiece_tokenizer(std::move(model), std::move(info), "tokenizer.model");
}

const std::string kMark(kSpaceMark);

TEST(SentencePiece, UnknownCharactersSideBySideAreOneToken) {
  const auto with_space = tokenizer_of(model_of({{kMark, -1}, {"a", -2}}));
  EXPECT_EQ(with_space->encode("axy z"), (Ids{3, 4, 0, 3, 0}));
  const auto without = tokenizer_of(model_of({{"a", -2}}));
  EXPECT_EQ(without->encode("axy z"), (Ids{0, 4 - 1, 0})) << "the space is unknown too";
}

TEST(SentencePiece, BytesThatAreNotUtf8AreUnknownCharacters) {
  const auto tokenizer = tokenizer_of(model_of({{kMark, -1}, {"a", -2}}));
  EXPECT_EQ(tokenizer->encode("a\xFF\xC3z"), (Ids{3, 4, 0}));
  EXPECT_EQ(tokenizer->encode("\xFF"
                              "a"),
            (Ids{3, 0, 4}));
}

// libsentencepiece itself gives up on such a text.
TEST(SentencePiece, AControlTokenOfOneCharacterIsTextLikeAnyOther) {
  SentencePieceModel model = model_of({{kMark, -1}, {"a", -2}});
  model.pieces.push_back({"b", 0, PieceType::kControl});
  const auto tokenizer = tokenizer_of(std::move(model));
  EXPECT_EQ(tokenizer->encode("aba"), (Ids{3, 4, 0, 4}));
  EXPECT_EQ(tokenizer->encode("ab", {.parse_special = true}), (Ids{3, 4, 5}));
}

// Words and noise: the ids are libsentencepiece's, whichever way they are found.
TEST(SentencePiece, MergesFindWhatTheLibraryFinds) {
  const fs::path file = tokenizer_file("llama-2-tokenizer.model");
  if (file.empty()) GTEST_SKIP() << kNoData;
  const SentencePieceModel model = parse_sentencepiece_model(read_text_file(file), "llama-2");
  ASSERT_EQ(why_merges_differ(model, {}), "") << "the merges are what is tested";
  const auto make = [&](PieceFinder finder) {
    TokenizerInfo info;
    add_control_pieces(model, info);
    return make_sentencepiece_tokenizer(model, info, "llama-2", finder);
  };
  const auto merges = make(PieceFinder::kFastest), library = make(PieceFinder::kLibrary);
  static const std::string kParts[] = {"a",
                                       "e",
                                       "th",
                                       "ing",
                                       "  ",
                                       " ",
                                       "\n",
                                       "Q",
                                       "xz",
                                       "1",
                                       "\xC3\xA9",
                                       "\xE4\xB8\xAD",
                                       "::",
                                       "    ",
                                       "\xFF",
                                       kMark,
                                       "\xF0\x9F\x98\x80",
                                       "ation"};
  std::mt19937 random(3);
  for (int i = 0; i < 3000; ++i) {
    std::string text;
    for (unsigned n = random() % 60; n > 0; --n) text += kParts[random() % std::size(kParts)];
    ASSERT_EQ(merges->encode(text), library->encode(text)) << text;
  }
}

struct Odd {
  const char* name;
  std::vector<Piece> pieces;
  const char* reason;  // why tokenizer.json would differ; null: it does not
};

class OddVocabulary : public ::testing::TestWithParam<Odd> {};

TEST_P(OddVocabulary, SavedItGivesTheSameIds) {
  const SentencePieceModel model = model_of(GetParam().pieces);
  const auto tokenizer = tokenizer_of(model);
  const ScratchFolder directory;
  tokenizer->save(directory.path());
  const bool exact = GetParam().reason == nullptr;
  EXPECT_EQ(fs::exists(directory.path() / "tokenizer.json"), exact);
  const std::string reason = why_merges_differ(model, {});
  if (exact) {
    EXPECT_EQ(reason, "");
  } else {
    EXPECT_THAT(reason, HasSubstr(GetParam().reason));
  }
  const auto saved = load_tokenizer(directory.path());
  std::mt19937 random(7);
  for (int i = 0; i < 500; ++i) {
    std::string text;
    for (unsigned n = random() % 12; n > 0; --n) text += "aaaabbcw  x\xFF"[random() % 12];
    ASSERT_EQ(saved->encode(text), tokenizer->encode(text)) << text;
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, OddVocabulary,
    ::testing::Values(
        Odd{"whole", {{kMark, -1}, {"a", -2}, {"b", -3}, {"ab", -4}, {"aba", -5}}, nullptr},
        Odd{"stranger", {{kMark, -1}, {"a", -2}, {kMark + "w", -3}}, "merged of 'w'"},
        Odd{"strangers", {{"a", -2}, {"bc", -3}}, "which is no piece"},
        Odd{"tie",
            {{kMark, -1}, {"a", -2}, {"b", -3}, {"c", -4}, {"bc", -5}, {"ab", -5}},
            "'bc' and 'ab' have the same score"},
        Odd{"harmless_tie",
            {{kMark, -1}, {"a", -2}, {"b", -3}, {"c", -4}, {"x", -5}, {"ab", -6}, {"xc", -6}},
            nullptr},
        Odd{"runs",
            {{"aa", -9}, {"aaaa", -9}, {"aaa", -9}, {"ab", -8}, {kMark, -1}, {"b", -2}, {"a", -3}},
            nullptr},
        Odd{"runs_with_gaps",
            {{"aa", -9}, {"aaaa", -9}, {kMark, -1}, {"b", -2}, {"a", -3}},
            "'aa' and 'aaaa' have the same score"},
        Odd{"unused", {{"a", -2}, {"b", -3}, {"ab", -4, PieceType::kUnused}}, "'ab' is unused"},
        Odd{"user", {{"a", -2}, {"ab", 0, PieceType::kUserDefined}}, "'ab' is user-defined"},
        Odd{"twice", {{"a", -2}, {"</s>", -3}}, "'</s>' stands twice"},
        Odd{"control", {{"a", -2}, {"b", 0, PieceType::kControl}}, "'b' is a single character"}),
    [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace longgen::tokenizer::testing
