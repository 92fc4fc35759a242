// Special tokens, saving, decoding, streams: what all kinds have in common.
#include "longgen/tokenizer/tokenizer.h"

#include <chrono>
#include <thread>

#include "longgen/base/error.h"
#include "longgen/formats/model_file.h"
#include "longgen/tokenizer/byte_tokenizer.h"
#include "longgen/tokenizer/utf8.h"
#include "tests/tokenizer/tokenizer_test_data.h"

namespace longgen::tokenizer::testing {
namespace {

using Ids = std::vector<int32_t>;

std::unique_ptr<Tokenizer> saved_and_loaded(const Tokenizer& tokenizer) {
  const ScratchFolder directory;
  tokenizer.save(directory.path());
  return load_tokenizer(directory.path());
}

TEST(ByteTokenizer, IdsAreBytes) {
  const auto tokenizer = make_byte_tokenizer();
  EXPECT_EQ(tokenizer->vocab_size(), 259);
  std::string all;
  Ids expected;
  for (int b = 255; b >= 0; --b) {
    all += static_cast<char>(b);
    expected.push_back(b);
  }
  EXPECT_EQ(tokenizer->encode(all), expected);
  EXPECT_EQ(tokenizer->decode(expected), all);
  EXPECT_EQ(tokenizer->bos_id(), 256);
  EXPECT_EQ(tokenizer->eos_id(), 257);
  EXPECT_EQ(tokenizer->pad_id(), 258);
  EXPECT_EQ(tokenizer->end_of_generation_ids(), Ids{257});
  EXPECT_FALSE(tokenizer->adds_bos());
}

TEST(ByteTokenizer, SurvivesSaving) {
  const auto saved = saved_and_loaded(*make_byte_tokenizer());
  EXPECT_NE(dynamic_cast<ByteTokenizer*>(saved.get()), nullptr) << "not recognised as bytes";
  EXPECT_EQ(saved->vocab_size(), 259);
  EXPECT_EQ(saved->bos_id(), 256);
  EXPECT_EQ(saved->eos_id(), 257);
  EXPECT_EQ(saved->pad_id(), 258);
  EXPECT_EQ(saved->end_of_generation_ids(), Ids{257});
  EXPECT_TRUE(saved->is_special(256));
  EXPECT_EQ(saved->encode("h\xC3\xA9\xFF<|eos|>", {.add_bos = true, .parse_special = true}),
            (Ids{256, 'h', 0xC3, 0xA9, 0xFF, 257}));
}

TEST(ByteTokenizer, SpecialTokensAreTextUnlessParsed) {
  const auto tokenizer = make_byte_tokenizer();
  const std::string text = "a<|bos|><|eos|>b";
  EXPECT_EQ(tokenizer->encode(text).size(), text.size());
  const Ids ids = tokenizer->encode(text, {.parse_special = true});
  EXPECT_EQ(ids, (Ids{'a', 256, 257, 'b'}));
  EXPECT_EQ(tokenizer->decode(ids), text);
  EXPECT_EQ(tokenizer->decode(ids, {.skip_special = true}), "ab");
}

TEST(Tokenizer, IdsOutsideTheVocabularyAreErrors) {
  const auto tokenizer = make_byte_tokenizer();
  for (const int32_t id : {-1, 259, 1 << 30}) {
    EXPECT_THROW(tokenizer->decode(Ids{id}), Error);
    EXPECT_THROW(tokenizer->token_bytes(id), Error);
    EXPECT_FALSE(tokenizer->is_special(id));
  }
}

// The pieces of a text: "[id]" for added tokens, the rest as it stands.
std::vector<std::string> cut(const AddedTokenMatcher& matcher, const std::string& text,
                             bool with_special = true) {
  std::vector<std::string> parts;
  matcher.cut(
      text, with_special,
      [&](size_t begin, size_t end) { parts.push_back(text.substr(begin, end - begin)); },
      [&](const AddedToken& token) { parts.push_back(fmt::format("[{}]", token.id)); });
  return parts;
}

using Parts = std::vector<std::string>;

TEST(AddedTokens, StripAndWordRules) {
  const AddedTokenMatcher matcher(
      {{.id = 1, .text = "<m>", .lstrip = true, .rstrip = true},
       {.id = 2, .text = "<m>x"},
       {.id = 3, .text = "word", .special = false, .single_word = true}});
  EXPECT_EQ(cut(matcher, "a  <m> \n b"), (Parts{"a", "[1]", "b"}));
  EXPECT_EQ(cut(matcher, "a\xE3\x80\x80<m>\xC2\xA0 b"), (Parts{"a", "[1]", "b"}));
  EXPECT_EQ(cut(matcher, "<m> <m>"), (Parts{"[1]", "[1]"}));
  EXPECT_EQ(cut(matcher, "a  <m> b", false), (Parts{"a  <m> b"}));
  EXPECT_EQ(cut(matcher, "<m>x"), (Parts{"[2]"})) << "the longest of those at one place";
  EXPECT_EQ(cut(matcher, "words sword word_ wordo\xCC\x81"),
            (Parts{"words sword word_ wordo\xCC\x81"}));
  EXPECT_EQ(cut(matcher, "\xC3\xA9word word\xE4\xB8\xAD word."),
            (Parts{"\xC3\xA9word word\xE4\xB8\xAD ", "[3]", "."}));
  EXPECT_EQ(cut(matcher, ""), Parts{});
}

// A token that may not stand where it is hides those inside it.
TEST(AddedTokens, HiddenTokensStayText) {
  const AddedTokenMatcher matcher(
      {{.id = 1, .text = "<|a|>"}, {.id = 2, .text = "|a", .special = false}});
  EXPECT_EQ(cut(matcher, "<|a|> |a"), (Parts{"[1]", " ", "[2]"}));
  EXPECT_EQ(cut(matcher, "<|a|> |a", false), (Parts{"<|a|> ", "[2]"}));
}

TEST(SmolLM2, SettingsOfTheFile) {
  const fs::path model = smollm2_file();
  if (model.empty()) GTEST_SKIP() << kNoData;
  const auto file = formats::ModelFile::open(model);
  const auto tokenizer = Tokenizer::load(file);
  EXPECT_EQ(tokenizer->vocab_size(), 49152);
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 2);
  EXPECT_EQ(tokenizer->pad_id(), 2);
  EXPECT_EQ(tokenizer->unk_id(), 0);
  EXPECT_FALSE(tokenizer->adds_bos());
  EXPECT_TRUE(tokenizer->is_end_of_generation(2));
  EXPECT_FALSE(tokenizer->is_end_of_generation(1));
  EXPECT_TRUE(tokenizer->is_special(1));
  EXPECT_FALSE(tokenizer->is_special(300));
  EXPECT_NE(tokenizer->chat_template().find("<|im_start|>"), std::string::npos);
  EXPECT_EQ(tokenizer->encode("a  2"), (Ids{81, 256, 34})) << "digits are cut off first";
  EXPECT_EQ(tokenizer->encode("<|im_end|>", {.parse_special = true}), Ids{2});
  EXPECT_GT(tokenizer->encode("<|im_end|>").size(), 1u);
}

// Every kind of tokenizer that the data has, loaded from GGUF and from what save() makes of it.
class EveryKind : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string name = GetParam();
    if (name == "bytes") {
      tokenizer_ = make_byte_tokenizer();
    } else {
      const fs::path path =
          name == "smollm2" ? smollm2_file() : tokenizer_file("ggml-vocab-" + name + ".gguf");
      if (path.empty()) GTEST_SKIP() << kNoData;
      tokenizer_ = load_tokenizer(path);
    }
  }
  std::unique_ptr<Tokenizer> tokenizer_;
};

std::string without(const std::string& text, const std::string& bytes) {
  std::string kept;
  for (const char c : text) {
    if (bytes.find(c) == std::string::npos) kept += c;
  }
  return kept;
}

TEST_P(EveryKind, RandomBytesRoundTrip) {
  std::mt19937 random(1);
  for (int i = 0; i < 300; ++i) {
    std::string text;
    for (size_t n = random() % 200; n > 0; --n) text += static_cast<char>(random());
    EXPECT_EQ(tokenizer_->decode(tokenizer_->encode(text)),
              without(text, tokenizer_->missing_bytes()));
  }
}

TEST_P(EveryKind, OddTextsRoundTrip) {
  for (const std::string& text : odd_texts(1000, 2)) {
    for (const bool parse : {false, true}) {
      const Ids ids = tokenizer_->encode(text, {.parse_special = parse});
      EXPECT_EQ(tokenizer_->decode(ids), without(text, tokenizer_->missing_bytes())) << text;
    }
  }
}

TEST_P(EveryKind, SavedIsTheSame) {
  const auto saved = saved_and_loaded(*tokenizer_);
  ASSERT_EQ(saved->vocab_size(), tokenizer_->vocab_size());
  EXPECT_EQ(saved->bos_id(), tokenizer_->bos_id());
  EXPECT_EQ(saved->eos_id(), tokenizer_->eos_id());
  EXPECT_EQ(saved->pad_id(), tokenizer_->pad_id());
  EXPECT_EQ(saved->unk_id(), tokenizer_->unk_id());
  EXPECT_EQ(saved->adds_bos(), tokenizer_->adds_bos());
  EXPECT_EQ(saved->end_of_generation_ids(), tokenizer_->end_of_generation_ids());
  EXPECT_EQ(saved->chat_template(), tokenizer_->chat_template());
  for (int32_t id = 0; id < saved->vocab_size(); ++id) {
    ASSERT_EQ(saved->token_bytes(id), tokenizer_->token_bytes(id)) << id;
    ASSERT_EQ(saved->is_special(id), tokenizer_->is_special(id)) << id;
  }
  for (const std::string& text : odd_texts(500, 3)) {
    for (const bool parse : {false, true}) {
      const EncodeOptions options{.parse_special = parse};
      ASSERT_EQ(saved->encode(text, options), tokenizer_->encode(text, options)) << text;
    }
  }
}

// A directory is written again byte for byte.
TEST_P(EveryKind, SavedTwiceIsTheSameFiles) {
  const ScratchFolder first, second;
  tokenizer_->save(first.path());
  load_tokenizer(first.path())->save(second.path());
  int files = 0;
  for (const auto& entry : fs::directory_iterator(first.path())) {
    EXPECT_EQ(read_text_file(entry.path()),
              read_text_file(second.path() / entry.path().filename()));
    ++files;
  }
  EXPECT_GE(files, 3);
}

TEST_P(EveryKind, StreamGivesWhatDecodeGives) {
  for (const std::string& text : odd_texts(500, 4)) {
    const Ids ids = tokenizer_->encode(text);
    StreamDecoder stream(*tokenizer_);
    std::string streamed;
    for (const int32_t id : ids) {
      const std::string part = stream.push(id);
      EXPECT_EQ(valid_utf8_prefix(part), part.size()) << "a split character";
      streamed += part;
    }
    streamed += stream.finish();
    const std::string decoded = tokenizer_->decode(ids);
    std::string expected;
    for_each_utf8_run(
        decoded, [&](std::string_view valid) { expected += valid; },
        [&](std::string_view invalid) {
          while (!invalid.empty()) {
            expected += "\xEF\xBF\xBD";
            invalid.remove_prefix(utf8_step(invalid).length);
          }
        });
    EXPECT_EQ(streamed, expected);
  }
}

TEST_P(EveryKind, SeveralThreadsAtOnce) {
  const auto texts = odd_texts(300, 5);
  std::vector<Ids> expected;
  for (const std::string& text : texts) expected.push_back(tokenizer_->encode(text));
  std::vector<int> wrong(4, 0);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (size_t i = 0; i < texts.size(); ++i)
        wrong[t] += tokenizer_->encode(texts[i]) != expected[i];
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

// Words without end must not take quadratic time: 4e10 steps would be minutes, n log n is below 1
// s.
TEST_P(EveryKind, LongWordsAreNotQuadratic) {
  const size_t bytes = 200'000;
  for (const std::string& unit :
       {std::string("a"), std::string("ab"), std::string(" "), std::string("\n"),
        std::string("\xE4\xB8\xAD"), std::string("\xFF"), std::string("!?")}) {
    std::string text;
    while (text.size() < bytes) text += unit;
    const auto start = std::chrono::steady_clock::now();
    const Ids ids = tokenizer_->encode(text);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    EXPECT_LT(seconds.count(), 20) << unit;
    EXPECT_TRUE(tokenizer_->decode(ids) == without(text, tokenizer_->missing_bytes())) << unit;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, EveryKind,
                         ::testing::Values("bytes", "smollm2", "gpt-2", "starcoder", "gpt-neox",
                                           "llama-spm", "phi-3"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace longgen::tokenizer::testing
