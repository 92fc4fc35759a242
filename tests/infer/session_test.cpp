// A conversation against fresh readings of all its text.
#include "longgen/infer/session.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>

#include "longgen/base/error.h"
#include "longgen/tokenizer/byte_tokenizer.h"
#include "tests/testing/golden_model.h"

namespace longgen::infer {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

class Conversation {
 public:
  explicit Conversation(const std::string& model, bool cpu = false)
      : golden_(model),
        backend_(cpu ? make_cpu_backend(2) : make_reference_backend()),
        weights_(golden_.weights(cpu ? DType::kF32 : DType::kF64, backend_->memory())),
        tokenizer_(tokenizer::make_byte_tokenizer()) {}

  int64_t max_tokens() const { return golden_.config.max_position_embeddings; }
  std::unique_ptr<Engine> engine(int64_t chunk) {
    return std::make_unique<Engine>(
        golden_.config, *weights_, *backend_,
        EngineOptions{.chunk = chunk, .max_batch = 1, .max_tokens = max_tokens(), .score_rows = 1});
  }
  std::vector<int32_t> ids(int64_t begin, int64_t count) const {
    std::vector<int32_t> ids;
    for (int64_t i = begin; i < begin + count; ++i) {
      ids.push_back(golden_.ids[static_cast<size_t>(i) % golden_.ids.size()]);
    }
    return ids;
  }
  std::vector<float> fresh_logits(const std::vector<int32_t>& prompt, int64_t chunk) {
    const auto fresh = engine(chunk);
    return Session(*fresh).read(prompt);
  }
  Completion complete(Session& session, std::vector<int32_t> prompt, int64_t count,
                      const EngineCallbacks& callbacks = {}) {
    const Request request{
        .prompt = std::move(prompt), .max_new_tokens = count, .ignore_end_of_text = true};
    return session.complete(request, *tokenizer_, callbacks);
  }

 private:
  testing::GoldenModel golden_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<model::ParameterSet> weights_;
  std::unique_ptr<tokenizer::Tokenizer> tokenizer_;
};

std::vector<int32_t> operator+(std::vector<int32_t> a, const std::vector<int32_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

bool has_released_pages(const std::string& model) { return model.starts_with("hybrid"); }

class SessionOf : public ::testing::TestWithParam<std::string> {
 protected:
  Conversation c{GetParam()};
};

// Turns of uneven length, replies between them; every logit as if all had been read at once, in
// chunks of another size.
TEST_P(SessionOf, TurnsGiveTheBitsOfOneFreshReading) {
  for (const int64_t chunk : {1, 7, 64}) {
    const auto engine = c.engine(chunk);
    Session session(*engine);
    std::vector<int32_t> said;
    for (const auto& [turn, reply] :
         {std::pair<int64_t, int64_t>{21, 5}, {1, 9}, {40, 12}, {17, 3}}) {
      const int64_t begin = static_cast<int64_t>(said.size());
      if (begin + turn + reply > c.max_tokens()) break;
      const std::vector<int32_t> prompt = said + c.ids(begin + 3, turn);
      // The last token of a reply was never read.
      EXPECT_EQ(session.reuse(prompt).kept, std::max<int64_t>(begin - 1, 0));
      EXPECT_EQ(session.read(prompt), c.fresh_logits(prompt, 13)) << chunk << " at " << begin;
      const Completion completion = c.complete(session, prompt, reply);
      EXPECT_EQ(engine->stats().prefill_tokens, 1);  // what read() left
      said = prompt + completion.ids;
    }
    ASSERT_GT(said.size(), 40u);
  }
}

TEST_P(SessionOf, ARewrittenHistoryIsReadAgainAsFarAsItMust) {
  const int64_t length = std::min<int64_t>(c.max_tokens() - 8, 140);
  const std::vector<int32_t> first = c.ids(0, length);
  bool again = false;
  for (int64_t common = 0; common < length; common += 17) {
    const auto engine = c.engine(32);
    Session session(*engine);
    session.read(first);
    std::vector<int32_t> prompt(first.begin(), first.begin() + common);
    prompt = prompt + std::vector<int32_t>{(first[static_cast<size_t>(common)] + 1) % 50} +
             c.ids(common + 5, 4);
    const Reuse reuse = session.reuse(prompt);
    EXPECT_EQ(reuse.common, common);
    EXPECT_LE(reuse.kept, common);
    if (!has_released_pages(GetParam())) {
      EXPECT_EQ(reuse.kept, common);
    }
    again = again || reuse.kept < common;
    EXPECT_EQ(session.read(prompt), c.fresh_logits(prompt, 11)) << common;
    // And the conversation goes on from there.
    const std::vector<int32_t> more = prompt + c.ids(77, 3);
    EXPECT_EQ(session.reuse(more).kept, static_cast<int64_t>(prompt.size()));
    EXPECT_EQ(session.read(more), c.fresh_logits(more, 200)) << common;
  }
  EXPECT_EQ(again, has_released_pages(GetParam()));
}

TEST_P(SessionOf, TheSamePromptTwiceReadsItsLastTokenOnly) {
  const auto engine = c.engine(16);
  Session session(*engine);
  const std::vector<int32_t> prompt = c.ids(4, 50);
  const std::vector<float> logits = session.read(prompt);
  EXPECT_EQ(session.reuse(prompt).kept, 49);
  EXPECT_EQ(session.read(prompt), logits);
  session.clear();
  EXPECT_TRUE(session.ids().empty());
  EXPECT_EQ(session.reuse(prompt).common, 0);
  EXPECT_EQ(session.read(prompt), logits);
}

TEST_P(SessionOf, WhatWasCancelledCanBeContinued) {
  const auto engine = c.engine(8);
  Session session(*engine);
  const std::vector<int32_t> prompt = c.ids(0, 60);
  int polls = 0;
  const EngineCallbacks stop_in_prompt{.cancelled = [&] { return ++polls > 4; }};
  EXPECT_TRUE(session.read(prompt, stop_in_prompt).empty());
  EXPECT_EQ(session.ids().size(), 32u);
  EXPECT_EQ(session.reuse(prompt).kept, 32);
  EXPECT_EQ(session.read(prompt), c.fresh_logits(prompt, 60));
  polls = 0;
  const EngineCallbacks stop_in_reply{.cancelled = [&] { return ++polls > 4; }};
  const Completion part = c.complete(session, prompt, 20, stop_in_reply);
  EXPECT_EQ(part.reason, FinishReason::kCancelled);
  ASSERT_GT(part.ids.size(), 1u);
  ASSERT_LT(part.ids.size(), 20u);
  const std::vector<int32_t> next = prompt + part.ids + c.ids(9, 6);
  EXPECT_EQ(session.read(next), c.fresh_logits(next, 64));
}

// What a long prompt left of its beginning does not serve a shorter one.
TEST_P(SessionOf, AShorterPromptAfterACancelledOneIsReadAgainWhereItMust) {
  const std::vector<int32_t> prompt = c.ids(0, std::min<int64_t>(c.max_tokens() - 4, 150));
  for (const int64_t length : {40, 57, 64, 70}) {
    if (length + 4 > static_cast<int64_t>(prompt.size())) continue;
    const auto engine = c.engine(8);
    Session session(*engine);
    int polls = 0;
    session.read(prompt, {.cancelled = [&] { return ++polls > 7; }});
    const std::vector<int32_t> shorter(prompt.begin(), prompt.begin() + length);
    EXPECT_EQ(session.read(shorter), c.fresh_logits(shorter, 60)) << length;
    const std::vector<int32_t> more = shorter + c.ids(5, 4);
    EXPECT_EQ(session.reuse(more).kept, length);
    EXPECT_EQ(session.read(more), c.fresh_logits(more, 60)) << length;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, SessionOf,
                         ::testing::Values("llama_gqa", "hybrid_window", "hybrid_sink_window",
                                           "hybrid_strided", "hybrid_strided_heads",
                                           "hybrid_block32"),
                         [](const auto& info) { return info.param; });

TEST(Session, CompletesAsTheEngineDoes) {
  Conversation c("hybrid_sink_window", true);
  const auto engine = c.engine(32);
  const std::vector<int32_t> prompt = c.ids(0, 90);
  const Request request{.prompt = prompt,
                        .max_new_tokens = 16,
                        .sampling = {.temperature = 1, .seed = 3},
                        .ignore_end_of_text = true};
  const auto tokenizer = tokenizer::make_byte_tokenizer();
  const auto expected = engine->generate({{request}}, *tokenizer);
  Session session(*engine);
  const Completion completion = session.complete(request, *tokenizer);
  EXPECT_EQ(completion.ids, expected[0].ids);
  EXPECT_EQ(completion.text, expected[0].text);
  EXPECT_EQ(completion.reason, FinishReason::kLength);
  EXPECT_EQ(engine->stats().decode_tokens, 15);
  EXPECT_LT(engine->stats().kv_bytes_in_use, engine->stats().kv_bytes_all_full);
}

// fp32 sums in another order where chunks differ: some units in the last place of logits near 10.
TEST(Session, StaysWithinRoundingOnTheCpu) {
  Conversation c("hybrid_strided", true);
  const auto engine = c.engine(16);
  Session session(*engine);
  session.read(c.ids(0, 50));
  const std::vector<float> logits = session.read(c.ids(0, 120));
  const std::vector<float> fresh = c.fresh_logits(c.ids(0, 120), 120);
  ASSERT_EQ(logits.size(), fresh.size());
  for (size_t i = 0; i < logits.size(); ++i) EXPECT_NEAR(logits[i], fresh[i], 1e-4);
}

TEST(Session, SaysWhatDoesNotFit) {
  Conversation c("llama_gqa");
  const auto engine = c.engine(16);
  Session session(*engine);
  EXPECT_THAT([&] { session.read({}); }, ThrowsMessage<Error>(HasSubstr("empty")));
  EXPECT_THAT([&] { session.read(c.ids(0, c.max_tokens() + 1)); },
              ThrowsMessage<Error>(HasSubstr("the context was set to")));
  EXPECT_THAT([&] { c.complete(session, c.ids(0, c.max_tokens()), 1); },
              ThrowsMessage<Error>(HasSubstr("asks for 1 more")));
}

}  // namespace
}  // namespace longgen::infer
