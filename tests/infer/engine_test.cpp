// The engine against the whole forward: exactly on the fp64 reference, within rounding on the cpu.
#include "longgen/infer/engine.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "longgen/base/error.h"
#include "longgen/tokenizer/byte_tokenizer.h"
#include "tests/testing/golden_model.h"
#include "tests/testing/poisoned_memory.h"

namespace longgen::infer {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

struct Case {
  std::string model;
  bool cpu = false;
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.model << (c.cpu ? " cpu f32" : " reference");
}

class Fixture {
 public:
  explicit Fixture(const Case& c)
      : golden_(c.model),
        backend_(c.cpu ? make_cpu_backend(2) : make_reference_backend()),
        weights_(golden_.weights(c.cpu ? DType::kF32 : DType::kF64, backend_->memory())),
        tokenizer_(tokenizer::make_byte_tokenizer()) {}

  const model::ModelConfig& config() const { return golden_.config; }
  const tokenizer::Tokenizer& tokenizer() const { return *tokenizer_; }
  model::ParameterSet& weights() { return *weights_; }

  Engine engine(EngineOptions options = {.chunk = 32, .max_batch = 3, .score_rows = 32}) {
    if (options.max_tokens == 0) options.max_tokens = golden_.config.max_position_embeddings;
    return Engine(golden_.config, *weights_, *backend_, options);
  }
  EnginePlan plan(const EngineOptions& options) {
    return Engine::plan(golden_.config, weights_->dtype(), *backend_, options);
  }

  std::vector<int32_t> ids(int64_t begin, int64_t count) const {
    std::vector<int32_t> ids;
    const auto n = static_cast<int64_t>(golden_.ids.size());
    for (int64_t i = 0; i < count; ++i)
      ids.push_back(golden_.ids[static_cast<size_t>((begin + i) % n)]);
    return ids;
  }

  // Row by row, of one document.
  std::vector<std::vector<double>> whole_logits(const std::vector<int32_t>& ids) {
    const auto n = static_cast<int64_t>(ids.size());
    model::TrainingPass pass(config(), *weights_, *backend_, n, {}, backend_->memory());
    const std::vector<int32_t> labels(ids.size(), -1);
    const bool wide = weights_->dtype() == DType::kF64;
    std::vector<double> f64(wide ? static_cast<size_t>(n * config().vocab_size) : 0);
    std::vector<float> f32(wide ? 0 : static_cast<size_t>(n * config().vocab_size));
    void* data = wide ? static_cast<void*>(f64.data()) : f32.data();
    pass.logits({ids, labels, {}},
                Tensor(data, wide ? DType::kF64 : DType::kF32, {n, config().vocab_size}));
    if (!wide) f64.assign(f32.begin(), f32.end());
    std::vector<std::vector<double>> rows;
    for (int64_t i = 0; i < n; ++i) {
      rows.emplace_back(f64.begin() + i * config().vocab_size,
                        f64.begin() + (i + 1) * config().vocab_size);
    }
    return rows;
  }

 private:
  testing::GoldenModel golden_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<model::ParameterSet> weights_;
  std::unique_ptr<tokenizer::Tokenizer> tokenizer_;
};

Request request(std::vector<int32_t> prompt, int64_t max_new_tokens, SamplingParams sampling = {}) {
  return {.prompt = std::move(prompt),
          .max_new_tokens = max_new_tokens,
          .sampling = sampling,
          .ignore_end_of_text = true};
}

std::vector<std::vector<int32_t>> ids_of(const std::vector<Completion>& completions) {
  std::vector<std::vector<int32_t>> ids;
  for (const Completion& completion : completions) ids.push_back(completion.ids);
  return ids;
}

double log_softmax(const std::vector<double>& logits, int32_t id) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const double x : logits) sum += std::exp(x - top);
  return logits[static_cast<size_t>(id)] - top - std::log(sum);
}

class EngineOf : public ::testing::TestWithParam<Case> {
 protected:
  Fixture f{GetParam()};
  // At most n: models with learned positions have few.
  int64_t up_to(int64_t n) const { return std::min(n, f.config().max_position_embeddings); }
  // fp64 gives the same bits whatever the chunks, but scores are floats up to 20 in size; fp32 sums
  // in another order move such a score by some ten units in its last place.
  double tolerance() const { return GetParam().cpu ? 1e-4 : 2e-6; }
};

TEST_P(EngineOf, ScoresLikeTheWholeForward) {
  const std::vector<int32_t> ids = f.ids(0, up_to(150));
  const auto whole = f.whole_logits(ids);
  for (const int64_t rows : {1, 7, 16, 64, 150, 200}) {
    Engine engine = f.engine({.chunk = 1, .max_batch = 1, .score_rows = rows});
    const std::vector<float> scores = engine.score(ids);
    ASSERT_EQ(scores.size(), ids.size() - 1);
    for (size_t t = 0; t < scores.size(); ++t) {
      ASSERT_NEAR(scores[t], log_softmax(whole[t], ids[t + 1]), tolerance())
          << rows << " rows, token " << t;
    }
  }
}

TEST_P(EngineOf, GreedyIsTheArgMaxOfTheWholeForwardForEveryChunkSize) {
  constexpr int64_t kNew = 20;
  const int64_t prompt = up_to(95) - kNew;
  std::vector<int32_t> first;
  for (const int64_t chunk : {1, 5, 16, 33, 75, 128}) {
    Engine engine = f.engine({.chunk = chunk, .max_batch = 1, .score_rows = 1});
    const auto completions = engine.generate({{request(f.ids(0, prompt), kNew)}}, f.tokenizer());
    ASSERT_EQ(completions[0].ids.size(), static_cast<size_t>(kNew));
    EXPECT_EQ(completions[0].reason, FinishReason::kLength);
    if (first.empty()) first = completions[0].ids;
    EXPECT_EQ(completions[0].ids, first) << "chunks of " << chunk;
    EXPECT_EQ(engine.stats().prefill_tokens, prompt);
    EXPECT_EQ(engine.stats().decode_tokens, kNew - 1);
  }
  std::vector<int32_t> all = f.ids(0, prompt);
  all.insert(all.end(), first.begin(), first.end());
  const auto whole = f.whole_logits(all);
  for (int64_t i = 0; i < kNew; ++i) {
    const auto& row = whole[static_cast<size_t>(prompt - 1 + i)];
    const double top = *std::max_element(row.begin(), row.end());
    EXPECT_GE(row[static_cast<size_t>(first[static_cast<size_t>(i)])], top - tolerance())
        << "token " << i;
  }
}

TEST_P(EngineOf, BatchedIsAsAlone) {
  std::vector<Request> requests;
  for (int64_t i = 0; i < 6; ++i)
    requests.push_back(request(f.ids(11 * i, up_to(20 + 17 * i) - 4 - 3 * i), 4 + 3 * i));
  std::vector<std::vector<int32_t>> alone;
  Engine single = f.engine({.chunk = 32, .max_batch = 1, .score_rows = 1});
  for (const Request& r : requests) alone.push_back(single.generate({{r}}, f.tokenizer())[0].ids);
  for (const int64_t batch : {1, 2, 4, 8}) {
    Engine engine = f.engine({.chunk = 32, .max_batch = batch, .score_rows = 1});
    EXPECT_EQ(ids_of(engine.generate(requests, f.tokenizer())), alone) << batch << " at once";
  }
}

TEST_P(EngineOf, SamplesTheSameWhateverTheBatch) {
  std::vector<Request> requests;
  for (int64_t i = 0; i < 5; ++i) {
    requests.push_back(request(f.ids(0, 30), 12, {.temperature = 1, .top_p = 0.9, .seed = 5}));
  }
  std::vector<std::vector<int32_t>> first;
  for (const int64_t batch : {1, 2, 5}) {
    Engine engine = f.engine({.chunk = 16, .max_batch = batch, .score_rows = 1});
    const auto ids = ids_of(engine.generate(requests, f.tokenizer()));
    if (first.empty()) first = ids;
    EXPECT_EQ(ids, first) << batch << " at once";
  }
  EXPECT_NE(first[0], first[1]) << "equal prompts draw their own numbers";
}

TEST_P(EngineOf, KeepsWhatThePatternSaysAndPlansForTheMost) {
  constexpr int64_t kNew = 9;
  const int64_t prompt = up_to(149) - kNew;
  const EngineOptions options{
      .chunk = 48, .max_batch = 2, .max_tokens = prompt + kNew, .score_rows = 1};
  Engine engine = f.engine(options);
  engine.generate({{request(f.ids(0, prompt), kNew)}}, f.tokenizer());
  // The last token that came out was never run.
  const KvBytes expected = kv_bytes(f.config(), f.weights().dtype(), prompt + kNew - 1);
  EXPECT_EQ(engine.stats().kv_bytes_in_use, expected.live);
  EXPECT_EQ(engine.stats().kv_bytes_all_full, expected.all_full);
  EXPECT_GE(engine.stats().kv_bytes_peak, expected.live);
  const EnginePlan plan = f.plan(options);
  EXPECT_GE(plan.kv_peak, engine.stats().kv_bytes_peak);
  EXPECT_GT(plan.workspace, 0);
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const std::string& name : testing::golden_cases()) cases.push_back({name, true});
  for (const char* name : {"hybrid_sink_window", "hybrid_strided_heads", "llama_gqa", "opt"}) {
    cases.push_back({name, false});
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Models, EngineOf, ::testing::ValuesIn(all_cases()), [](const auto& info) {
  return info.param.model + (info.param.cpu ? "_cpu" : "_reference");
});

const Case kHybrid{"hybrid_sink_window", true};

TEST(Engine, StopsBetweenPassesWhenCancelled) {
  Fixture f(kHybrid);
  Engine engine = f.engine({.chunk = 16, .max_batch = 2, .score_rows = 16});
  const std::vector<Request> requests = {request(f.ids(0, 30), 4), request(f.ids(5, 30), 20),
                                         request(f.ids(9, 30), 4)};
  const auto whole = engine.generate(requests, f.tokenizer());
  for (int allowed = 0; allowed < 40; ++allowed) {
    SCOPED_TRACE(allowed);
    int polls = 0;
    const EngineCallbacks callbacks{.cancelled = [&] { return polls++ >= allowed; }};
    const auto some = engine.generate(requests, f.tokenizer(), callbacks);
    ASSERT_EQ(some.size(), requests.size());
    EXPECT_LE(polls, allowed + 1) << "nothing runs after the stop";
    for (size_t i = 0; i < some.size(); ++i) {
      if (some[i].reason != FinishReason::kCancelled) {
        EXPECT_EQ(some[i].ids, whole[i].ids);
      } else {
        const std::span<const int32_t> begun(whole[i].ids.data(),
                                             std::min(some[i].ids.size(), whole[i].ids.size()));
        EXPECT_LT(some[i].ids.size(), whole[i].ids.size());
        EXPECT_TRUE(std::equal(begun.begin(), begun.end(), some[i].ids.begin()));
      }
    }
    EXPECT_EQ(some[0].ids.empty(), allowed < 2) << "a prompt of 30 tokens takes two passes";
  }
  EXPECT_EQ(ids_of(engine.generate(requests, f.tokenizer())), ids_of(whole))
      << "nothing is left behind";

  int polls = 0;
  const auto scores = engine.score(f.ids(0, 100), {.cancelled = [&] { return polls++ >= 2; }});
  EXPECT_EQ(scores.size(), 32u) << "two passes of 16 rows";
}

TEST(Engine, ReportsPrefillProgressOverAllPrompts) {
  Fixture f(kHybrid);
  Engine engine = f.engine({.chunk = 16, .max_batch = 1, .score_rows = 1});
  std::vector<int64_t> done;
  const EngineCallbacks callbacks{.on_prefill = [&](int64_t now, int64_t total) {
    EXPECT_EQ(total, 60);
    done.push_back(now);
  }};
  engine.generate({{request(f.ids(0, 40), 2), request(f.ids(3, 20), 2)}}, f.tokenizer(), callbacks);
  EXPECT_EQ(done, (std::vector<int64_t>{16, 32, 40, 56, 60}));
}

TEST(Engine, RefusesWhatDoesNotFit) {
  Fixture f(kHybrid);
  Engine engine = f.engine({.chunk = 16, .max_batch = 1, .max_tokens = 64, .score_rows = 16});
  const auto generate = [&](const Request& r) { engine.generate({{r}}, f.tokenizer()); };
  EXPECT_THAT([&] { generate(request(f.ids(0, 60), 5)); },
              ThrowsMessage<Error>(
                  HasSubstr("60 tokens and asks for 5 more, but the context was set to 64")));
  EXPECT_THAT([&] { generate(request(f.ids(0, 10), std::numeric_limits<int64_t>::max())); },
              ThrowsMessage<Error>(HasSubstr("10 tokens and asks for")));
  EXPECT_THAT([&] { generate(request({}, 5)); }, ThrowsMessage<Error>(HasSubstr("empty")));
  EXPECT_THAT([&] { generate(request(f.ids(0, 10), 0)); },
              ThrowsMessage<Error>(HasSubstr("at least 1")));
  EXPECT_THAT([&] { engine.score(f.ids(0, 65)); }, ThrowsMessage<Error>(HasSubstr("65 tokens")));
  EXPECT_EQ(engine.score(f.ids(0, 64)).size(), 63u);
  EXPECT_TRUE(engine.score(f.ids(0, 1)).empty());
  generate(request(f.ids(0, 60), 4));
  EXPECT_THAT([&] { f.engine({.chunk = 0}); }, ThrowsMessage<Error>(HasSubstr("at least 1")));
}

TEST(Engine, GivesItsPagesBackWhenAModelOverflows) {
  Fixture f(kHybrid);
  Engine engine = f.engine({.chunk = 16, .max_batch = 2, .score_rows = 1});
  const Request r = request(f.ids(0, 20), 4);
  const auto before = engine.generate({{r}}, f.tokenizer());
  const Tensor norm = f.weights()["model.norm.weight"];
  const float kept = norm.data<float>()[0];
  norm.data<float>()[0] = std::numeric_limits<float>::quiet_NaN();
  for (int i = 0; i < 5; ++i) {
    EXPECT_THAT([&] { engine.generate({{r}}, f.tokenizer()); },
                ThrowsMessage<Error>(HasSubstr("damaged or overflow")));
  }
  norm.data<float>()[0] = kept;
  EXPECT_EQ(ids_of(engine.generate({{r}}, f.tokenizer())), ids_of(before));
}

// A model of all bytes whose output is noise: characters of several bytes and broken ones.
class Noise : public ::testing::Test {
 protected:
  Noise() : tokenizer_(tokenizer::make_byte_tokenizer()), backend_(make_cpu_backend(1)) {
    config_.vocab_size = tokenizer_->vocab_size();
    config_.hidden_size = config_.intermediate_size = 32;
    config_.num_layers = 2;
    config_.num_heads = config_.num_kv_heads = 2;
    config_.head_dim = config_.rotary_dim = 16;
    config_.max_position_embeddings = 512;
    config_.tie_word_embeddings = true;
    model::set_full_attention(config_, 16);
    weights_ =
        std::make_unique<model::ParameterSet>("weights", config_, DType::kF32, backend_->memory());
    model::initialize(config_, 1, *weights_);
    engine_ = std::make_unique<Engine>(config_, *weights_, *backend_, EngineOptions{.chunk = 16});
  }

  model::ModelConfig config_;
  std::unique_ptr<tokenizer::Tokenizer> tokenizer_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<model::ParameterSet> weights_;
  std::unique_ptr<Engine> engine_;
};

// Whether `text` is whole UTF-8 characters (lead bytes and their number of continuations).
bool is_whole(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const size_t length = lead < 0x80    ? 1
                          : lead >= 0xF0 ? 4
                          : lead >= 0xE0 ? 3
                          : lead >= 0xC2 ? 2
                                         : 0;
    if (length == 0 || i + length > text.size()) return false;
    for (size_t j = 1; j < length; ++j) {
      if ((static_cast<unsigned char>(text[i + j]) & 0xC0) != 0x80) return false;
    }
    i += length;
  }
  return true;
}

TEST_F(Noise, StreamsWholeCharacters) {
  std::vector<Request> requests;
  for (int i = 0; i < 6; ++i)
    requests.push_back(request({65, 66, 67}, 300, {.temperature = 1, .seed = 9}));
  std::vector<std::string> streamed(requests.size());
  const EngineCallbacks callbacks{.on_text = [&](size_t i, std::string_view text) {
    EXPECT_TRUE(is_whole(text));
    streamed[i] += text;
  }};
  const auto completions = engine_->generate(requests, *tokenizer_, callbacks);
  size_t wide = 0;
  for (size_t i = 0; i < completions.size(); ++i) {
    EXPECT_EQ(completions[i].text, streamed[i]);
    tokenizer::StreamDecoder decoder(*tokenizer_, {.skip_special = true, .continuation = true});
    std::string decoded;
    for (const int32_t id : completions[i].ids) decoded += decoder.push(id);
    EXPECT_EQ(streamed[i], decoded + decoder.finish());
    for (size_t at = 0; at + 1 < streamed[i].size(); ++at) {
      wide +=
          static_cast<unsigned char>(streamed[i][at]) >= 0xC2 && streamed[i][at] != '\xEF' ? 1 : 0;
    }
  }
  EXPECT_GT(wide, 20u) << "the noise has characters of several bytes";
}

TEST_F(Noise, EndsAtStopStringsAndAtTheEndOfText) {
  const Request free = request({65, 66, 67}, 200, {.temperature = 1, .seed = 3});
  const auto whole = engine_->generate({{free}}, *tokenizer_)[0];
  // A piece of two characters that begins somewhere in the middle.
  size_t at = whole.text.size() / 2;
  while ((static_cast<unsigned char>(whole.text[at]) & 0xC0) == 0x80) ++at;
  size_t end = at + 1;
  for (int characters = 0; characters < 2; ++end) {
    if ((static_cast<unsigned char>(whole.text[end]) & 0xC0) != 0x80) ++characters;
    if (characters == 2) break;
  }
  const std::string stop = whole.text.substr(at, end - at);
  Request stopping = free;
  stopping.stop = {"never in there", stop};
  const auto stopped = engine_->generate({{stopping}}, *tokenizer_)[0];
  EXPECT_EQ(stopped.reason, FinishReason::kStopString);
  EXPECT_EQ(stopped.text, whole.text.substr(0, whole.text.find(stop)));
  EXPECT_LT(stopped.ids.size(), whole.ids.size());

  // Among 259 equally likely ids the end of text comes up within 2,000 draws (all but 0.05 %).
  std::vector<Request> many;
  for (int i = 0; i < 10; ++i) {
    many.push_back(request({65}, 200, {.temperature = 1, .seed = 4}));
    many.back().ignore_end_of_text = false;
  }
  int ended = 0;
  for (const Completion& c : engine_->generate(many, *tokenizer_)) {
    if (c.reason != FinishReason::kEndOfText) continue;
    ++ended;
    EXPECT_EQ(c.ids.back(), tokenizer::kByteEos);
    EXPECT_EQ(std::count(c.ids.begin(), c.ids.end(), tokenizer::kByteEos), 1);
  }
  EXPECT_GT(ended, 0);
}

}  // namespace
}  // namespace longgen::infer
