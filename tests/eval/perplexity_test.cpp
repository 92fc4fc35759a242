#include "longgen/eval/perplexity.h"

#include <gmock/gmock.h>

#include <cmath>
#include <numeric>

#include "longgen/base/error.h"
#include "longgen/eval/report.h"
#include "tests/eval/eval_testing.h"

namespace longgen::eval {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

TEST(PositionBins, DoubleAndCoverEveryPredictedPosition) {
  for (const int64_t length : {2, 100, 256, 257, 4096, 5000}) {
    const auto bins = position_bins(length);
    int64_t next = 1;
    for (size_t i = 0; i < bins.size(); ++i) {
      EXPECT_EQ(bins[i].begin, next);
      EXPECT_GT(bins[i].end, bins[i].begin);
      EXPECT_EQ(bins[i].end, std::min(int64_t{256} << i, length));
      next = bins[i].end;
    }
    EXPECT_EQ(next, length);
  }
  EXPECT_TRUE(position_bins(1).empty());
}

TEST(Tally, HasMeanAndStandardError) {
  Tally tally;
  EXPECT_EQ(tally.mean(), 0);
  tally.add(2);
  EXPECT_EQ(tally.standard_error(), 0);
  for (const double x : {4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0}) tally.add(x);
  EXPECT_EQ(tally.mean(), 5);
  // Squared deviations sum to 32; the variance is 32 / 7, that of the mean an eighth of it.
  EXPECT_NEAR(tally.standard_error(), std::sqrt(32.0 / 7 / 8), 1e-12);
}

TEST(LongDocuments, TakesTheFirstOnesThatAreLongEnough) {
  const ScratchFolder folder;
  const auto tokenizer = tokenizer::make_byte_tokenizer();
  folder.write("a.txt", std::string(50, 'a'));
  folder.write("b.txt", std::string(100, 'b'));
  folder.write("c.jsonl", "{\"text\": \"" + std::string(99, 'c') + "\"}\n{\"text\": \"" +
                              std::string(200, 'd') + "\"}\n");
  const auto documents = long_documents({folder.path()}, *tokenizer, 100, 10, false);
  ASSERT_EQ(documents.size(), 2u);
  EXPECT_EQ(documents[0].ids, std::vector<int32_t>(100, 'b'));
  EXPECT_EQ(documents[1].ids, std::vector<int32_t>(100, 'd'));
  EXPECT_THAT(documents[1].name, HasSubstr("c.jsonl document 2"));
  // BOS counts.
  const auto with_bos = long_documents({folder.path()}, *tokenizer, 100, 10, true);
  ASSERT_EQ(with_bos.size(), 3u);
  EXPECT_EQ(with_bos[1].ids[0], tokenizer::kByteBos);
  EXPECT_EQ(with_bos[1].ids[99], 'c');
  EXPECT_EQ(long_documents({folder.path()}, *tokenizer, 100, 1, false).size(), 1u);
  EXPECT_THAT([&] { long_documents({folder.path()}, *tokenizer, 1000, 10, false); },
              ThrowsMessage<Error>(
                  HasSubstr("no document of --text has 1000 tokens (the longest has 200)")));
}

std::vector<LongDocument> stories(int64_t length, int count) {
  const auto tokenizer = tokenizer::make_byte_tokenizer();
  std::vector<LongDocument> documents;
  for (int i = 0; i < count; ++i) {
    auto ids = tokenizer->encode(
        story_text().substr(static_cast<size_t>(1000 * i), static_cast<size_t>(length)));
    documents.push_back({"story " + std::to_string(i), std::move(ids)});
  }
  return documents;
}

TEST(PerplexityByPosition, IsTheMeanOfScoresInEachBin) {
  const TinyModel model(600);
  infer::Engine engine = model.engine();
  const auto documents = stories(600, 3);
  const PerplexityReport report = perplexity_by_position(engine, documents);
  EXPECT_TRUE(report.complete);
  EXPECT_EQ(report.documents, (std::vector<std::string>{"story 0", "story 1", "story 2"}));
  ASSERT_EQ(report.bins.size(), 3u);
  double in_bin = 0, in_all = 0;  // the middle bin
  for (const LongDocument& document : documents) {
    const auto scores = engine.score(document.ids);
    in_bin -= std::accumulate(scores.begin() + 255, scores.begin() + 511, 0.0) / 256;
    in_all -= std::accumulate(scores.begin(), scores.end(), 0.0) / 599;
  }
  EXPECT_EQ(report.bins[1].begin, 256);
  EXPECT_EQ(report.bins[1].end, 512);
  EXPECT_EQ(report.bins[1].documents.count, 3);
  EXPECT_NEAR(report.bins[1].documents.mean(), in_bin / 3, 1e-9);
  EXPECT_NEAR(report.all.mean(), in_all / 3, 1e-9);
  EXPECT_EQ(report.stats.prefill_tokens, 3 * 599);
  EXPECT_NEAR(to_json(report)["bins"][1]["nll"].get<double>(), in_bin / 3, 1e-9);
  EXPECT_THAT(to_table(report), HasSubstr("256 to 511"));
}

TEST(PerplexityByPosition, OneDocumentHasNoStandardError) {
  PerplexityReport report{.length = 1024, .bins = {{.begin = 1, .end = 1024}}};
  report.bins[0].documents.add(2);
  report.all.add(2);
  const std::string one = to_table(report);
  EXPECT_NE(one.find("1 document of 1K tokens\n"), std::string::npos) << one;
  EXPECT_NE(one.find("all     2.0000          -       7.3891\n"), std::string::npos) << one;
  report.all.add(3);
  const std::string two = to_table(report);
  EXPECT_NE(two.find("2 documents of"), std::string::npos) << two;
  EXPECT_NE(two.find("all     2.5000     0.5000"), std::string::npos) << two;
}

TEST(PerplexityByPosition, LeavesUnfinishedDocumentsOut) {
  const TinyModel model(600);
  infer::Engine engine = model.engine();
  int polls = 0;
  // 10 passes of 64 rows a document.
  const auto report =
      perplexity_by_position(engine, stories(600, 3), {.cancelled = [&] { return ++polls > 15; }});
  EXPECT_FALSE(report.complete);
  EXPECT_EQ(report.all.count, 1);
  EXPECT_EQ(report.bins[0].documents.count, 1);
}

TEST(ShortTextLoss, IsTheMeanOverWindowsOnTheirOwn) {
  const TinyModel model(600);
  infer::Engine engine = model.engine();
  const std::string text = story_text().substr(0, 1100);
  const auto ids = model.tokenizer().encode(text);
  // Windows of 500, 500 and 100 bytes.
  double sum = 0;
  int64_t tokens = 0;
  for (const auto& [begin, size] : {std::pair{0, 500}, std::pair{500, 500}, std::pair{1000, 100}}) {
    for (const float s : engine.score(
             std::span(ids).subspan(static_cast<size_t>(begin), static_cast<size_t>(size)))) {
      sum -= s;
      ++tokens;
    }
  }
  const ShortTextLoss loss = short_text_loss(engine, model.tokenizer(), text, {.window = 500});
  EXPECT_EQ(loss.windows, 3);
  EXPECT_EQ(loss.tokens, tokens);
  EXPECT_NEAR(loss.nll, sum / static_cast<double>(tokens), 1e-9);

  // With BOS a window holds one byte less and predicts them all.
  const ShortTextLoss with_bos =
      short_text_loss(engine, model.tokenizer(), text, {.window = 500, .bos = true});
  EXPECT_EQ(with_bos.tokens, 1100);
  EXPECT_EQ(
      short_text_loss(engine, model.tokenizer(), text, {.window = 500, .max_windows = 2}).windows,
      2);
  EXPECT_THROW(short_text_loss(engine, model.tokenizer(), ""), Error);
  EXPECT_THROW(short_text_loss(engine, model.tokenizer(), text, {.window = 1}), Error);
}

}  // namespace
}  // namespace longgen::eval
