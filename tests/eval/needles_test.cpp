#include "longgen/eval/needles.h"

#include <gmock/gmock.h>

#include <set>

#include "longgen/base/error.h"
#include "longgen/eval/report.h"
#include "longgen/tokenizer/byte_tokenizer.h"
#include "tests/eval/eval_testing.h"

namespace longgen::eval {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using ::testing::ThrowsMessage;

const NeedleTemplate& passkey(const char* name) { return find_template(passkey_templates(), name); }
const NeedleTemplate& needle(const char* name) { return find_template(needle_templates(), name); }

std::shared_ptr<const Haystack> filler() {
  return std::make_shared<const Haystack>(Haystack::filler());
}
std::shared_ptr<const Haystack> story() {
  return std::make_shared<const Haystack>(Haystack::text(story_text(), "story"));
}

size_t count_of(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

TEST(NeedleTemplate, FillsInTheKey) {
  EXPECT_EQ(fill_in("{key} and {key}, {other}", "12"), "12 and 12, {other}");
  EXPECT_EQ(fill_in("none", "12"), "none");
  EXPECT_EQ(fill_in("", "12"), "");
}

TEST(NeedleTemplate, RatesTheFirstRunOfDigits) {
  const NeedleTemplate& form = passkey("landmark");
  EXPECT_EQ(form.rate(" 58213.", "58213"), 1);
  EXPECT_EQ(form.rate("\nsurely 58213 or 99999", "58213"), 1);
  EXPECT_EQ(form.rate(" 5821", "58213"), 0);
  EXPECT_EQ(form.rate(" 582130", "58213"), 0);
  EXPECT_EQ(form.rate(" 1 58213", "58213"), 0);
  EXPECT_EQ(form.rate("no idea", "58213"), 0);
  EXPECT_EQ(form.rate("", "58213"), 0);
  EXPECT_EQ(form.rate("7", "07"), 0);
}

TEST(NeedleTemplate, RatesTheShareOfDistinctExpectedWords) {
  const NeedleTemplate& form = needle("sentence");
  EXPECT_EQ(form.rate(" Eat a sandwich and sit in Dolores Park on a sunny day.\n", ""), 1);
  EXPECT_EQ(form.rate("day, sunny; a on Park! Dolores in (sit) and sandwich: eat", ""), 1);
  // eat a sandwich and sit in dolores park on sunny day: 11 words; three are there.
  EXPECT_DOUBLE_EQ(form.rate("sit in the rain and sit", ""), 3.0 / 11);
  EXPECT_EQ(form.rate("something else", ""), 0);
}

TEST(NeedleTemplate, DrawsKeys) {
  std::set<std::string> five, up;
  for (uint64_t i = 0; i < 3000; ++i) {
    Rng rng(1, i);
    five.insert(passkey("statement").make_key(rng));
    up.insert(passkey("landmark").make_key(rng));
  }
  bool leading_zero = false;
  for (const std::string& key : five) {
    EXPECT_EQ(key.size(), 5u);
    leading_zero |= key[0] == '0';
  }
  EXPECT_TRUE(leading_zero);
  for (const std::string& key : up) {
    EXPECT_NE(key[0], '0');
    EXPECT_LE(std::stoi(key), 50000);
  }
  EXPECT_GT(five.size(), 2900u);
  EXPECT_GT(up.size(), 2800u);
}

TEST(NeedleTemplate, NamesTheKnownForms) {
  EXPECT_THAT([] { needle("haiku"); }, ThrowsMessage<UsageError>(::testing::AllOf(
                                           HasSubstr("haiku"), HasSubstr("number, sentence"))));
}

// Byte for byte what epfml/landmark-attention llama/run_test.py builds.
TEST(Assemble, MakesTheLandmarkPassKeyPrompt) {
  const std::string garbage =
      "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";
  const NeedlePrompt prompt = assemble(passkey("landmark"), "4711", *filler(), 0, 130, 0.7);
  const std::string all = garbage + " " + garbage;
  EXPECT_EQ(
      prompt.text,
      "There is an important info hidden inside a lot of irrelevant text. Find it and memorize "
      "them. I will quiz you about the important information there.\n" +
          all.substr(0, 91) + "\nThe pass key is 4711. Remember it. 4711 is the pass key.\n" +
          all.substr(0, 39) + "\nWhat is the pass key? The pass key is");
}

TEST(Assemble, PutsTheNeedleAtEveryDepthBehindASentence) {
  const auto hay = story();
  for (const NeedlePlace place : {NeedlePlace::kSentenceEnd, NeedlePlace::kNextSentence}) {
    NeedleTemplate form = passkey("statement");
    form.place = place;
    for (int percent = 0; percent <= 100; percent += 5) {
      const double depth = percent / 100.0;
      const NeedlePrompt p = assemble(form, "12345", *hay, 100, 4000, depth);
      const std::string filler = hay->piece(100, 4000), inserted = fill_in(form.needle, "12345");
      EXPECT_EQ(p.text.substr(p.needle_begin, p.needle_end - p.needle_begin), inserted);
      const std::string before = p.text.substr(0, p.needle_begin);
      EXPECT_EQ(before + p.text.substr(p.needle_end), filler + form.question) << "nothing is lost";
      EXPECT_NEAR(static_cast<double>(before.size()), depth * 4000, 200);
      if (percent == 0 && place == NeedlePlace::kSentenceEnd) {
        EXPECT_EQ(before, "");
      } else if (percent == 100) {
        EXPECT_EQ(before, filler);
      } else if (percent < 95) {
        EXPECT_THAT(before, EndsWith("."));
      }
    }
  }
}

TEST(Haystack, GivesPiecesOfWholeCharactersAndWrapsAround) {
  const Haystack hay = Haystack::text("aé€\r\n😀b", "small");  // 1 + 2 + 3 + 1 + 4 + 1 bytes
  EXPECT_EQ(hay.bytes(), 12);
  EXPECT_EQ(hay.piece(0, 2), "a");
  EXPECT_EQ(hay.piece(0, 3), "aé");
  EXPECT_EQ(hay.piece(0, 10), "aé€\n");
  EXPECT_EQ(hay.piece(7, 6), "😀ba");
  EXPECT_EQ(hay.piece(0, 25), "aé€\n😀baé€\n😀ba");
  EXPECT_EQ(hay.piece(3, 0), "");
  EXPECT_THROW(Haystack::text(" \r\n ", "blank"), Error);
}

TEST(Haystack, ReadsFilesAndNamesWhatIsMissing) {
  const ScratchFolder folder;
  folder.write("b.txt", "Second book.");
  folder.write("a.md", "First book.\r\n");
  folder.write("c.bin", "not text");
  EXPECT_EQ(Haystack::files({folder.path()}).piece(0, 25), "First book.\n\nSecond book.");
  folder.write("empty/e.txt", "\n");
  EXPECT_THAT([&] { Haystack::files({folder.path() / "empty"}); },
              ThrowsMessage<Error>(HasSubstr("no text")));
  EXPECT_THAT([&] { Haystack::files({folder.path() / "nowhere"}); },
              ThrowsMessage<Error>(HasSubstr("nowhere")));
}

TEST(Haystack, StartsBehindASpaceAndFarEnoughFromTheEnd) {
  const auto hay = story();
  std::set<int64_t> starts;
  for (uint64_t i = 0; i < 300; ++i) {
    Rng rng(1, i);
    const int64_t start = hay->random_start(rng, 5000);
    EXPECT_EQ(hay->piece(start - 1, 1), " ");
    EXPECT_LE(start + 5000, hay->bytes() + 64);
    starts.insert(start);
  }
  EXPECT_GT(starts.size(), 200u);
  Rng rng(1, 1);
  EXPECT_EQ(filler()->random_start(rng, 100), 0);
}

NeedleTask task_of(const NeedleTemplate& form, std::shared_ptr<const Haystack> hay) {
  return {.name = "test", .form = form, .haystack = std::move(hay), .lengths = {512}, .samples = 9};
}

TEST(MakeSample, FitsEveryLengthWithAByteTokenizerExactly) {
  const auto tokenizer = tokenizer::make_byte_tokenizer();
  NeedleTask task = task_of(passkey("statement"), story());
  task.bos = true;
  for (const int64_t length : {256, 512, 1000, 4096, 16384}) {
    for (int64_t i = 0; i < 5; ++i) {
      const NeedleSample s = make_sample(task, *tokenizer, {}, length, i);
      EXPECT_EQ(s.max_new_tokens, 7);  // " 12345."
      EXPECT_EQ(s.prompt_tokens + s.max_new_tokens, length);
      EXPECT_EQ(s.ids[0], tokenizer::kByteBos);
      EXPECT_EQ(tokenizer->decode(s.ids, {.skip_special = true}), s.prompt);
      // The needle's tokens are its text.
      const std::string inserted = fill_in(task.form.needle, s.key);
      const std::span<const int32_t> ids(s.ids);
      EXPECT_EQ(tokenizer->decode(ids.subspan(static_cast<size_t>(s.needle_begin),
                                              static_cast<size_t>(s.needle_end - s.needle_begin))),
                inserted);
      EXPECT_EQ(count_of(s.prompt, s.key), 2u);
      EXPECT_EQ(s.depth, static_cast<double>(i) / 8);
    }
  }
}

TEST(MakeSample, FitsEveryFormWithinTheLengthAndAlmostFillsIt) {
  const auto tokenizer = tokenizer::make_byte_tokenizer();
  for (const auto& forms : {passkey_templates(), needle_templates()}) {
    for (const NeedleTemplate& form : forms) {
      SCOPED_TRACE(form.name);
      const NeedleTask task = task_of(form, form.restart_haystack ? filler() : story());
      for (const int64_t length : {600, 2000}) {
        const NeedleSample s = make_sample(task, *tokenizer, {}, length, 4);
        EXPECT_LE(s.prompt_tokens + s.max_new_tokens, length);
        EXPECT_GE(s.prompt_tokens + s.max_new_tokens, length - 4);
        EXPECT_THAT(s.prompt, StartsWith(form.prefix));
        EXPECT_THAT(s.prompt, EndsWith(form.question));
        EXPECT_EQ(count_of(s.prompt, fill_in(form.needle, s.key)), 1u);
      }
    }
  }
  EXPECT_THAT([&] { make_sample(task_of(needle("number"), story()), *tokenizer, {}, 100, 0); },
              ThrowsMessage<UsageError>(HasSubstr("too few")));
}

TEST(MakeSample, DependsOnSeedLengthAndIndexAlone) {
  const auto tokenizer = tokenizer::make_byte_tokenizer();
  NeedleTask task = task_of(needle("number"), story());
  const auto a = make_sample(task, *tokenizer, {}, 512, 3),
             b = make_sample(task, *tokenizer, {}, 512, 3);
  EXPECT_EQ(a.prompt, b.prompt);
  EXPECT_NE(a.key, make_sample(task, *tokenizer, {}, 512, 4).key);
  EXPECT_NE(a.key, make_sample(task, *tokenizer, {}, 1024, 3).key);
  task.seed = 1;
  EXPECT_NE(a.key, make_sample(task, *tokenizer, {}, 512, 3).key);
}

TEST(MakeSample, DealsDepthsEvenly) {
  const auto tokenizer = tokenizer::make_byte_tokenizer();
  NeedleTask task = task_of(passkey("statement"), story());
  task.samples = 10;
  task.depths = 5;
  std::vector<double> depths;
  for (int64_t i = 0; i < 10; ++i)
    depths.push_back(make_sample(task, *tokenizer, {}, 512, i).depth);
  EXPECT_EQ(depths, (std::vector<double>{0, .25, .5, .75, 1, 0, .25, .5, .75, 1}));
  task.random_depths = true;
  std::set<double> drawn;
  for (int64_t i = 0; i < 10; ++i) drawn.insert(make_sample(task, *tokenizer, {}, 512, i).depth);
  EXPECT_EQ(drawn.size(), 10u);
}

TEST(OutsideSparseLayers, IsWhatNoSparseLayerSees) {
  const AttentionPattern full = AttentionPattern::full(16);
  const AttentionPattern window{.block_size = 16, .sink_blocks = 1, .local_blocks = 15};
  const std::vector<AttentionPattern> hybrid = {window, full, window};
  // The query at 1000 is in block 62 and sees blocks 48 to 62 and block 0.
  EXPECT_TRUE(outside_sparse_layers(hybrid, 16, 60, 1000));
  EXPECT_TRUE(outside_sparse_layers(hybrid, 700, 768, 1000));
  EXPECT_FALSE(outside_sparse_layers(hybrid, 700, 769, 1000)) << "its last token is in block 48";
  EXPECT_FALSE(outside_sparse_layers(hybrid, 15, 60, 1000)) << "its first token is in the sink";
  EXPECT_FALSE(outside_sparse_layers(hybrid, 900, 950, 1000));
  EXPECT_FALSE(outside_sparse_layers(std::vector{full, full}, 16, 60, 1000)) << "nothing is sparse";
  // The widest window counts, and every head's stride.
  const AttentionPattern wide{.block_size = 16, .local_blocks = 40};
  EXPECT_FALSE(outside_sparse_layers(std::vector{window, wide}, 700, 768, 1000));
  const AttentionPattern strided{
      .block_size = 16, .local_blocks = 2, .stride = 8, .offsets = {0, 4}};
  EXPECT_FALSE(outside_sparse_layers(std::vector{strided}, 7 * 16, 7 * 16 + 5, 1000));
  EXPECT_FALSE(outside_sparse_layers(std::vector{strided}, 3 * 16, 3 * 16 + 5, 1000)) << "head 1";
  EXPECT_TRUE(outside_sparse_layers(std::vector{strided}, 4 * 16, 7 * 16, 1000));
}

TEST(NeedleTask, RefusesNonsense) {
  const NeedleTask good = task_of(passkey("statement"), story());
  EXPECT_NO_THROW(good.validate());
  const auto refuses = [&](auto change) {
    NeedleTask task = good;
    change(task);
    EXPECT_THROW(task.validate(), UsageError);
  };
  refuses([](NeedleTask& t) { t.haystack = nullptr; });
  refuses([](NeedleTask& t) { t.lengths.clear(); });
  refuses([](NeedleTask& t) { t.lengths = {0}; });
  refuses([](NeedleTask& t) { t.samples = 0; });
  refuses([](NeedleTask& t) { t.depths = -1; });
}

class RunNeedles : public ::testing::Test {
 protected:
  NeedleTask task() const {
    NeedleTask task = task_of(passkey("statement"), story());
    task.lengths = {256, 400};
    task.samples = 10;
    task.depths = 5;
    return task;
  }
  TinyModel model_{600};
};

TEST_F(RunNeedles, CountsWhatItRan) {
  infer::Engine engine = model_.engine();
  int64_t last = 0;
  const EvalCallbacks callbacks{
      .on_progress = [&](int64_t done, int64_t total, std::string_view what) {
        EXPECT_GE(done, last);
        EXPECT_LE(done, total);
        EXPECT_EQ(total, 10 * (256 + 400));
        EXPECT_THAT(std::string(what), StartsWith("test "));
        last = done;
      }};
  const NeedleReport report = run_needles(engine, model_.tokenizer(), task(), callbacks);
  EXPECT_TRUE(report.complete);
  ASSERT_EQ(report.lengths.size(), 2u);
  EXPECT_EQ(report.samples.size(), 20u);
  EXPECT_GT(last, 5000);
  for (const LengthScore& length : report.lengths) {
    EXPECT_EQ(length.all.count, 10);
    EXPECT_EQ(length.inside.count + length.outside.count, 10);
    EXPECT_GT(length.outside.count, 0);
    EXPECT_GT(length.inside.count, 0);
    ASSERT_EQ(length.depths.size(), 5u);
    for (const DepthScore& depth : length.depths) EXPECT_EQ(depth.tally.count, 2);
    EXPECT_EQ(length.all.sum, 0) << "a random model finds nothing";
    EXPECT_GT(length.stats.prefill_tokens, 10 * (length.length - 8));
  }
  for (const NeedleSample& sample : report.samples) {
    EXPECT_EQ(sample.outside, outside_sparse_layers(engine.config().patterns, sample.needle_begin,
                                                    sample.needle_end, sample.prompt_tokens - 1));
    EXPECT_TRUE(sample.ids.empty() && sample.prompt.empty());
  }
}

// A model that copies is not at hand, so the answer is made what the model says anyway.
TEST_F(RunNeedles, RatesTheModelsOwnWords) {
  infer::Engine engine = model_.engine();
  NeedleTask t = task();
  t.form.score = NeedleScore::kWords;
  const NeedleReport first = run_needles(engine, model_.tokenizer(), t);
  t.form.max_new_tokens = first.samples[0].max_new_tokens;
  t.form.answer = first.samples[0].output;
  ASSERT_FALSE(t.form.answer.empty());
  const NeedleReport second = run_needles(engine, model_.tokenizer(), t);
  EXPECT_EQ(second.samples[0].output, first.samples[0].output);
  EXPECT_EQ(second.samples[0].score, 1);
  EXPECT_EQ(second.lengths[0].depths[0].tally.sum + second.lengths[0].depths[1].tally.sum +
                second.lengths[0].depths[2].tally.sum + second.lengths[0].depths[3].tally.sum +
                second.lengths[0].depths[4].tally.sum,
            second.lengths[0].all.sum);
}

TEST_F(RunNeedles, DoesNotDependOnTheBatch) {
  infer::Engine one = model_.engine(1), four = model_.engine(4);
  const auto a = run_needles(one, model_.tokenizer(), task()),
             b = run_needles(four, model_.tokenizer(), task());
  for (size_t i = 0; i < a.samples.size(); ++i) EXPECT_EQ(a.samples[i].output, b.samples[i].output);
}

TEST_F(RunNeedles, CountsByTheGivenPatterns) {
  NeedleTask t = task();
  t.patterns = {AttentionPattern::full(16)};
  infer::Engine engine = model_.engine();
  EXPECT_EQ(run_needles(engine, model_.tokenizer(), t).lengths[0].outside.count, 0);
}

TEST_F(RunNeedles, StopsWithWhatThereIs) {
  infer::Engine engine = model_.engine();
  int polls = 0;
  const NeedleReport report =
      run_needles(engine, model_.tokenizer(), task(), {.cancelled = [&] { return ++polls > 40; }});
  EXPECT_FALSE(report.complete);
  EXPECT_GT(report.samples.size(), 0u);
  EXPECT_LT(report.samples.size(), 20u);
  ASSERT_EQ(report.lengths.size(), 1u);
  EXPECT_EQ(report.lengths[0].all.count, static_cast<int64_t>(report.samples.size()));
  EXPECT_THAT(to_table(report), HasSubstr("stopped early"));
}

TEST(Report, WritesTablesAndJson) {
  NeedleReport report{.task = "needle", .form = "number", .haystack = "books"};
  LengthScore length{.length = 4096};
  for (const double score : {1.0, 0.0, 1.0, 1.0}) {
    length.all.add(score);
    length.outside.add(score);
    report.samples.push_back(
        {.length = 4096, .depth = 0.5, .key = "00123", .output = "\xff", .score = score});
  }
  length.depths = {{0, length.all}, {1, length.all}};
  report.lengths = {length};
  EXPECT_THAT(to_table(report),
              ::testing::AllOf(HasSubstr("4K"), HasSubstr("75.0 (4)"), HasSubstr("100%")));
  const auto json = to_json(report);
  EXPECT_EQ(json["lengths"][0]["score"], 0.75);
  EXPECT_EQ(json["lengths"][0]["outside"]["samples"], 4);
  EXPECT_TRUE(json["lengths"][0]["inside"]["score"].is_null());
  EXPECT_DOUBLE_EQ(json["lengths"][0]["stderr"].get<double>(), 0.25);  // sqrt(.75 * .25 / 3)
  EXPECT_EQ(json["overall"]["samples"], 4);
  EXPECT_EQ(to_json(report, report.samples[0])["key"], "00123");
}

}  // namespace
}  // namespace longgen::eval
