#include "longgen/data/packer.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <map>
#include <set>

#include "longgen/base/error.h"
#include "tests/data/data_testing.h"
#include "tests/testing/error_of.h"

namespace longgen::data {
namespace {

using longgen::testing::error_of;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string jsonl(const std::vector<std::string>& texts) {
  std::string lines;
  for (const std::string& text : texts) lines += "{\"text\": \"" + text + "\"}\n";
  return lines;
}

// One source of documents, or several.
class PackerTest : public ::testing::Test {
 protected:
  Corpus corpus(const std::vector<std::vector<std::string>>& sources,
                std::vector<SourceOptions> options = {}) {
    options.resize(sources.size());
    for (size_t i = 0; i < sources.size(); ++i) {
      options[i].path = folder_.write("s" + std::to_string(i) + ".jsonl", jsonl(sources[i]));
    }
    return Corpus(TokenCache(folder_.path() / "cache", byte_encoder(), "text", true), options);
  }

  static std::vector<Sequence> read_epoch(Packer& packer, int64_t epoch) {
    std::vector<Sequence> all;
    DataPosition position{epoch, 0};
    while (position.epoch == epoch) packer.read(position, all.emplace_back());
    return all;
  }

  ScratchFolder folder_;
};

TEST_F(PackerTest, ConcatCutsOneStream) {
  const Corpus data = corpus({{"abc", "defgh", "i"}});
  Packer packer(data, data.documents(), {.length = 4, .shuffle = false});
  EXPECT_EQ(packer.sequences(0), 3);
  const auto all = read_epoch(packer, 0);
  // The stream is |abc|defgh|i; the last id is a target only.
  EXPECT_EQ(show(all[0].ids), "|abc");
  EXPECT_EQ(show(all[0].labels), "abc|");
  EXPECT_EQ(show(all[1].ids), "|def");
  EXPECT_EQ(show(all[1].labels), "defg");
  EXPECT_EQ(show(all[2].ids), "gh|");
  EXPECT_EQ(show(all[2].labels), "h|i");
  EXPECT_EQ(all[2].targets, 3);
  EXPECT_TRUE(all[0].documents.empty());
}

TEST_F(PackerTest, ConcatEndsExactlyAtABoundary) {
  const Corpus data = corpus({{"abcd"}});
  Packer packer(data, data.documents(), {.length = 4, .shuffle = false});
  ASSERT_EQ(packer.sequences(0), 1);
  EXPECT_EQ(show(read_epoch(packer, 0)[0].labels), "abcd");
}

TEST_F(PackerTest, IsolatedStartsDocumentsAtBlocks) {
  const Corpus data = corpus({{"abcde", "fg", "hijklmnopq"}});
  Packer packer(data, data.documents(),
                {.packing = Packing::kIsolated, .length = 8, .block_size = 4, .shuffle = false});
  const auto all = read_epoch(packer, 0);
  // The third document is cut: 7 tokens after a BOS, then 3, which fit nowhere but at a block.
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(show(all[0].ids), "|abcde");
  EXPECT_EQ(show(all[0].labels), "abcde-");
  EXPECT_EQ(show(all[1].ids), "|fg||opq");
  EXPECT_EQ(show(all[1].labels), "fg--opq-");
  EXPECT_EQ(all[1].targets, 5);
  ASSERT_EQ(all[1].documents.size(), 2u);
  EXPECT_EQ(all[1].documents[0].row_begin, 0);
  EXPECT_EQ(all[1].documents[0].row_count, 3);
  EXPECT_EQ(all[1].documents[1].row_begin, 4);
  EXPECT_EQ(all[1].documents[1].row_count, 4);
  EXPECT_EQ(show(all[2].ids), "|hijklmn");
}

// Every token of every document is a target exactly once an epoch, whatever the mode and the order.
TEST_F(PackerTest, EveryTokenIsATargetOnce) {
  std::vector<std::string> texts;
  std::map<char, int64_t> expected;
  for (int i = 0; i < 60; ++i) {
    texts.emplace_back(1 + i * i % 37, static_cast<char>('0' + i));
    if (texts.back()[0] == '\\') texts.back() = "x";
    expected[texts.back()[0]] += static_cast<int64_t>(texts.back().size());
  }
  const Corpus data = corpus({texts});
  for (const Packing packing : {Packing::kConcat, Packing::kIsolated}) {
    Packer packer(data, data.documents(),
                  {.packing = packing, .length = 24, .block_size = 8, .seed = 5});
    for (int64_t epoch = 0; epoch < 3; ++epoch) {
      std::map<char, int64_t> seen;
      for (const Sequence& sequence : read_epoch(packer, epoch)) {
        EXPECT_LE(sequence.ids.size(), 24u);
        int64_t targets = 0;
        for (const int32_t label : sequence.labels) {
          targets += label >= 0;
          if (label >= 0 && label != kBos) ++seen[static_cast<char>(label)];
        }
        EXPECT_EQ(targets, sequence.targets);
        EXPECT_GE(targets, 1);
      }
      EXPECT_EQ(seen, expected) << (packing == Packing::kConcat ? "concat" : "isolated")
                                << " epoch " << epoch;
    }
  }
}

TEST_F(PackerTest, IsolatedFillsMixedLengthsWithoutWaste) {
  std::vector<std::string> texts;
  for (int i = 0; i < 64; ++i) texts.emplace_back((16 << i % 4) - 1, 'a');
  const Corpus data = corpus({texts});
  Packer packer(data, data.documents(),
                {.packing = Packing::kIsolated, .length = 128, .block_size = 16, .seed = 1});
  // 16 documents each of 16, 32, 64 and 128 rows, BOS included: 3,840 rows, 30 sequences.
  EXPECT_LE(packer.sequences(0), 31);
}

TEST_F(PackerTest, ResumesAtAnyPosition) {
  std::vector<std::string> first, second;
  for (int i = 0; i < 30; ++i) first.emplace_back(3 + i % 11, static_cast<char>('a' + i % 26));
  for (int i = 0; i < 20; ++i) second.emplace_back(2 + i % 17, static_cast<char>('A' + i % 26));
  const Corpus data = corpus({first, second}, {{.weight = 3}, {.weight = 1}});
  for (const Packing packing : {Packing::kConcat, Packing::kIsolated}) {
    const PackOptions options{.packing = packing, .length = 16, .block_size = 4, .seed = 9};
    Packer whole(data, data.documents(), options);
    DataPosition position;
    Sequence expected, found;
    while (position.epoch < 3) {
      const DataPosition here = position;
      whole.read(position, expected);
      Packer fresh(data, data.documents(), options);
      DataPosition resumed = here;
      fresh.read(resumed, found);
      ASSERT_EQ(found.ids, expected.ids);
      ASSERT_EQ(found.labels, expected.labels);
      ASSERT_EQ(resumed, position);
    }
  }
}

TEST_F(PackerTest, EpochsAndSeedsDiffer) {
  std::vector<std::string> texts;
  for (int i = 0; i < 26; ++i) texts.emplace_back(3, static_cast<char>('a' + i));
  const Corpus data = corpus({texts});
  std::set<std::string> orders;
  for (const uint64_t seed : {1, 2}) {
    Packer packer(data, data.documents(), {.length = 200, .seed = seed});
    for (int64_t epoch = 0; epoch < 3; ++epoch)
      orders.insert(show(read_epoch(packer, epoch)[0].ids));
  }
  EXPECT_EQ(orders.size(), 6u);
}

TEST_F(PackerTest, WeightsAreSharesOfTokens) {
  const std::vector<std::string> a(40, "aaaaaaaaa"), b(200, "bbbbbbbbb");
  const Corpus data = corpus({a, b}, {{.weight = 0.75}, {.weight = 0.25}});
  Packer packer(data, data.documents(), {.length = 32, .seed = 3});
  int64_t count_a = 0, count_b = 0;
  for (const Sequence& sequence : read_epoch(packer, 0)) {
    count_a += std::count(sequence.labels.begin(), sequence.labels.end(), 'a');
    count_b += std::count(sequence.labels.begin(), sequence.labels.end(), 'b');
  }
  EXPECT_EQ(count_a, 1620);  // 240 documents an epoch: 180 and 60
  EXPECT_EQ(count_b, 540);
  // Unweighted (evaluation): every document once.
  Packer once(data, data.documents(), {.length = 32, .shuffle = false, .weighted = false});
  count_a = 0;
  for (const Sequence& sequence : read_epoch(once, 0)) {
    count_a += std::count(sequence.labels.begin(), sequence.labels.end(), 'a');
  }
  EXPECT_EQ(count_a, 360);
}

TEST_F(PackerTest, MaxDocumentTokensCutsOneSourceOnly) {
  const Corpus data = corpus({{"abcdefgh"}, {"ABCDEFGH"}}, {{.max_document_tokens = 4}, {}});
  Packer packer(data, data.documents(), {.length = 64, .shuffle = false});
  EXPECT_EQ(show(read_epoch(packer, 0)[0].ids), "|abc|def|gh|ABCDEFG");
}

TEST_F(PackerTest, SplitHoldsOutWholeDocuments) {
  std::vector<std::string> texts;
  for (int i = 0; i < 26; ++i) texts.emplace_back(4, static_cast<char>('a' + i));
  const Corpus data = corpus({texts, {"ZZZ"}});
  const auto [kept, held] = data.split(0.2, 1);
  EXPECT_EQ(held.size(), 6u);  // 0.2 * 26, rounded up; the single document of the other stays
  EXPECT_EQ(kept.size(), 21u);
  std::set<std::pair<int32_t, int64_t>> ids;
  for (const auto* part : {&kept, &held}) {
    for (const Document& document : *part) ids.insert({document.source, document.index});
  }
  EXPECT_EQ(ids.size(), 27u);
  EXPECT_NE(data.split(0.2, 2).second[0].index + data.split(0.2, 2).second[1].index * 100,
            held[0].index + held[1].index * 100);
}

TEST_F(PackerTest, SaysWhatIsWrong) {
  EXPECT_THAT(error_of([&] { corpus({{"", ""}}); }), HasSubstr("holds no text"));
  EXPECT_THAT(error_of([&] { corpus({}); }), HasSubstr("data.paths"));
  EXPECT_THAT(error_of([&] { corpus({{"a"}, {"b"}}, {{.weight = 1}, {}}); }), HasSubstr("1 of 2"));
  EXPECT_THAT(error_of([&] { corpus({{"a"}}, {{.weight = -1}}); }), HasSubstr("-1"));
  EXPECT_THAT(error_of([&] { corpus({{"a"}}, {{.max_document_tokens = 1}}); }),
              HasSubstr("max_document_tokens"));
  const Corpus single = corpus({{"abc"}});
  EXPECT_THAT(error_of([&] { single.split(0.1, 0); }), HasSubstr("data.eval"));
  EXPECT_THAT(error_of([&] { single.split(1.5, 0); }), HasSubstr("1.5"));
  EXPECT_THAT(error_of([&] { Packer(single, single.documents(), {.length = 1}); }),
              HasSubstr("no target"));
  EXPECT_THAT(error_of([&] { parse_packing("both"); }), HasSubstr("'both'"));
  Packer packer(single, single.documents(), {.length = 8});
  DataPosition beyond{0, 7};
  Sequence out;
  EXPECT_THAT(error_of([&] { packer.read(beyond, out); }), HasSubstr("sequence 7"));
}

// The shuffle is part of what a run resumes with, so its result may never change.
TEST(Shuffle, IsFixedForever) {
  std::vector<int64_t> values = {0, 1, 2, 3, 4, 5, 6, 7};
  shuffle(values, 42, 7);
  EXPECT_THAT(values, ElementsAre(5, 6, 0, 2, 1, 7, 3, 4));
}

}  // namespace
}  // namespace longgen::data
