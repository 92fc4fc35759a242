// Models on the GPU, whole and over caches that give pages back, against the fp64 reference and the
// CPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "longgen/backend/device_queue.h"
#include "longgen/infer/engine.h"
#include "longgen/infer/session.h"
#include "longgen/tokenizer/byte_tokenizer.h"
#include "tests/cuda/cuda_parity.h"
#include "tests/cuda/tiny_models.h"

namespace longgen::testing {
namespace {

using infer::Completion;
using infer::Engine;
using infer::EngineOptions;
using infer::Request;

// f32: products and sums over at most 256 terms each round by about 1e-7 of their size, some 40 of
// them in a row.
constexpr double kF32Bound = 2e-5;

double relative_l2(const std::vector<double>& a, const std::vector<double>& b, size_t begin,
                   size_t count) {
  double difference = 0, size = 0;
  for (size_t i = begin; i < begin + count; ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return std::sqrt(difference / size);
}

// The worst row: a lost block hides in a norm over all rows. NaN is the worst of all.
double worst_row(const std::vector<double>& a, const std::vector<double>& b, int64_t vocab) {
  double worst = 0;
  for (size_t begin = 0; begin < b.size(); begin += static_cast<size_t>(vocab)) {
    const double row = relative_l2(a, b, begin, static_cast<size_t>(vocab));
    if (!(row <= worst)) worst = row;
  }
  return worst;
}

std::string case_name(const ::testing::TestParamInfo<std::tuple<std::string, DType>>& info) {
  return std::get<0>(info.param) + "_" + std::string(dtype_name(std::get<1>(info.param)));
}

class CudaModel : public ::testing::TestWithParam<std::tuple<std::string, DType>> {
 protected:
  void SetUp() override {
    cuda_ = cuda_backend_or_null();
    if (cuda_ == nullptr) GTEST_SKIP() << "no GPU";
  }
  Backend& cuda() { return *cuda_; }
  std::string name() const { return std::get<0>(GetParam()); }
  DType dtype() const { return std::get<1>(GetParam()); }
  TinyModel on(Backend& backend, DType type) { return {name(), type, backend, dtype()}; }

  // How far logits may be from the reference's: for bf16 twice as far as the CPU's in bf16 are.
  double bound(const std::vector<double>& truth, const std::vector<int32_t>& ids) {
    if (dtype() == DType::kF32) return kF32Bound;
    const auto cpu = make_cpu_backend(2);
    const TinyModel model = on(*cpu, dtype());
    return 2 * worst_row(whole_logits(model, *cpu, ids), truth, model.config.vocab_size);
  }

 private:
  Backend* cuda_ = nullptr;
};

TEST_P(CudaModel, WholeAndInChunksOverAnEvictingCacheIsTheReference) {
  const auto reference = make_reference_backend();
  const TinyModel exact = on(*reference, DType::kF64), model = on(cuda(), dtype());
  const int64_t vocab = model.config.vocab_size;
  const std::vector<int32_t> ids = random_tokens(230, vocab, 3);
  const std::vector<double> truth = whole_logits(exact, *reference, ids);
  const double most = bound(truth, ids);
  const double whole = worst_row(whole_logits(model, cuda(), ids), truth, vocab);
  EXPECT_LE(whole, most) << "the whole forward";
  double worst = 0;
  for (const int64_t chunk : {1, 7, 16, 33, 64, 230}) {
    const std::vector<double> logits = chunked_logits(model, cuda(), ids, chunk);
    ASSERT_EQ(logits.size(), truth.size());
    const double error = worst_row(logits, truth, vocab);
    EXPECT_LE(error, most) << "chunks of " << chunk;
    worst = std::max(worst, error);
    EXPECT_EQ(logits, chunked_logits(model, cuda(), ids, chunk)) << "repeated";
  }
  fmt::print("worst row: whole {:.2e}, chunks {:.2e}, bound {:.2e}\n", whole, worst, most);
}

INSTANTIATE_TEST_SUITE_P(Tiny, CudaModel,
                         ::testing::Combine(::testing::ValuesIn(tiny_models()),
                                            ::testing::Values(DType::kF32, DType::kBF16)),
                         case_name);

// Of rows that nobody asks for, upper layers leave out what no later row reads.
class CudaPrompt : public CudaModel {};

TEST_P(CudaPrompt, LastRowIsTheReferences) {
  const auto reference = make_reference_backend();
  const TinyModel exact = on(*reference, DType::kF64), model = on(cuda(), dtype());
  const int64_t vocab = model.config.vocab_size;
  const std::vector<int32_t> ids =
      random_tokens(model.config.max_position_embeddings - 77, vocab, 13);
  const std::vector<double> truth = whole_logits(exact, *reference, ids);
  const double most = bound(truth, ids);
  const std::vector<double> last(truth.end() - vocab, truth.end());
  for (const int64_t chunk : {int64_t{50}, int64_t{128}, static_cast<int64_t>(ids.size())}) {
    const std::vector<double> logits = prompt_logits(model, cuda(), ids, chunk);
    ASSERT_EQ(logits.size(), last.size());
    EXPECT_LE(worst_row(logits, last, vocab), most) << "chunks of " << chunk;
    EXPECT_EQ(logits, prompt_logits(model, cuda(), ids, chunk)) << "repeated";
  }
}

INSTANTIATE_TEST_SUITE_P(Tiny, CudaPrompt,
                         ::testing::Combine(::testing::Values("llama", "qwen3", "neox", "opt",
                                                              "windows"),
                                            ::testing::Values(DType::kF32, DType::kBF16)),
                         case_name);

// f32, in which the two sides' logits agree closely enough to be compared token by token.
class CudaEngine : public CudaModel {
 protected:
  Request request(int64_t prompt, int64_t new_tokens, uint64_t seed) {
    return {.prompt = random_tokens(prompt, tiny_config(name()).vocab_size, seed),
            .max_new_tokens = new_tokens,
            .ignore_end_of_text = true};
  }
  static EngineOptions options(int64_t chunk, int64_t batch) {
    return {.chunk = chunk, .max_batch = batch, .max_tokens = 256, .score_rows = 32};
  }
  const tokenizer::Tokenizer& tokenizer() const { return *tokenizer_; }

  // Equal up to a step at which the reference's two best logits are closer than rounding.
  void expect_same(const Completion& a, const Completion& b, const Request& request,
                   const TinyModel& cpu_model, Backend& cpu) {
    for (size_t i = 0; i < b.ids.size(); ++i) {
      ASSERT_LT(i, a.ids.size());
      if (a.ids[i] == b.ids[i]) continue;
      std::vector<int32_t> ids = request.prompt;
      ids.insert(ids.end(), b.ids.begin(), b.ids.begin() + static_cast<std::ptrdiff_t>(i));
      const auto logits = whole_logits(cpu_model, cpu, ids);
      const double* last =
          &logits[logits.size() - static_cast<size_t>(cpu_model.config.vocab_size)];
      EXPECT_NEAR(last[a.ids[i]], last[b.ids[i]], 1e-4) << "token " << i;
      return;
    }
    EXPECT_EQ(a.ids.size(), b.ids.size());
  }

 private:
  std::unique_ptr<tokenizer::Tokenizer> tokenizer_ = tokenizer::make_byte_tokenizer();
};

TEST_P(CudaEngine, GreedyIsTheCpus) {
  const auto cpu = make_cpu_backend(2);
  const TinyModel ours = on(cuda(), dtype()), theirs = on(*cpu, dtype());
  for (const int64_t chunk : {5, 32, 256}) {
    const Request r = request(120, 60, 5);
    const int64_t graphs = device_queue(cuda())->graph_steps();
    Engine gpu(ours.config, *ours.weights, cuda(), options(chunk, 1));
    Engine host(theirs.config, *theirs.weights, *cpu, options(chunk, 1));
    const auto a = gpu.generate({&r, 1}, tokenizer());
    const auto b = host.generate({&r, 1}, tokenizer());
    expect_same(a[0], b[0], r, theirs, *cpu);
    EXPECT_EQ(gpu.stats().kv_bytes_peak, host.stats().kv_bytes_peak);
    // All decode steps but the first of each table capacity.
    EXPECT_GE(device_queue(cuda())->graph_steps() - graphs, 55);
    EXPECT_EQ(a[0].ids, gpu.generate({&r, 1}, tokenizer())[0].ids) << "repeated";
  }
}

TEST_P(CudaEngine, SequencesOfDifferentLengthsRunSideBySide) {
  const auto cpu = make_cpu_backend(2);
  const TinyModel ours = on(cuda(), dtype()), theirs = on(*cpu, dtype());
  std::vector<Request> requests;
  for (const auto& [prompt, tokens] :
       {std::pair{3, 40}, {200, 12}, {64, 33}, {1, 25}, {129, 50}, {90, 7}}) {
    requests.push_back(request(prompt, tokens, static_cast<uint64_t>(prompt)));
  }
  Engine gpu(ours.config, *ours.weights, cuda(), options(32, 4));
  Engine host(theirs.config, *theirs.weights, *cpu, options(32, 1));
  const auto together = gpu.generate(requests, tokenizer());
  for (size_t i = 0; i < requests.size(); ++i) {
    const auto alone = host.generate({&requests[i], 1}, tokenizer());
    expect_same(together[i], alone[0], requests[i], theirs, *cpu);
  }
}

TEST_P(CudaEngine, ScoresAreTheCpus) {
  const auto cpu = make_cpu_backend(2);
  const TinyModel ours = on(cuda(), dtype()), theirs = on(*cpu, dtype());
  const std::vector<int32_t> ids = random_tokens(200, ours.config.vocab_size, 8);
  Engine gpu(ours.config, *ours.weights, cuda(), options(32, 1));
  Engine host(theirs.config, *theirs.weights, *cpu, options(32, 1));
  const auto a = gpu.score(ids), b = host.score(ids);
  ASSERT_EQ(a.size(), b.size());
  // Logits of size 5 to 10 that differ by kF32Bound of themselves.
  for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 4e-4) << "token " << i;
}

TEST_P(CudaEngine, AConversationGoesOnFromItsCache) {
  const TinyModel ours = on(cuda(), dtype());
  Engine engine(ours.config, *ours.weights, cuda(), options(32, 2));
  infer::Session session(engine), fresh(engine);
  std::vector<int32_t> ids = random_tokens(70, ours.config.vocab_size, 9);
  session.read(ids);
  ids.insert(ids.end(), {4, 5, 6});
  EXPECT_EQ(session.reuse(ids).kept, 70);
  const auto next = session.read(ids), whole = fresh.read(ids);
  ASSERT_EQ(next.size(), whole.size());
  const std::vector<double> a(next.begin(), next.end()), b(whole.begin(), whole.end());
  EXPECT_LE(worst_row(a, b, ours.config.vocab_size), kF32Bound);
}

INSTANTIATE_TEST_SUITE_P(Tiny, CudaEngine,
                         ::testing::Combine(::testing::ValuesIn(tiny_models()),
                                            ::testing::Values(DType::kF32)),
                         case_name);

TEST(CudaMemory, TakesWhatLivePagesAndOneChunkNeed) {
  Backend* cuda = cuda_backend_or_null();
  if (cuda == nullptr) GTEST_SKIP() << "no GPU";
  model::ModelConfig config = tiny_config("llama");
  config.num_layers = 32;
  config.num_heads = config.num_kv_heads = 8;
  config.head_dim = 128;
  config.patterns.assign(32, {.block_size = 64, .sink_blocks = 1, .local_blocks = 32});
  for (size_t i = 10; i < 22; ++i) config.patterns[i] = AttentionPattern::full(64);
  const int64_t tokens = 128 << 10, before = cuda->memory().available_bytes();
  const infer::KvCache cache(config, DType::kBF16, 1, tokens, cuda->memory(), 1024);
  const int64_t taken = before - cuda->memory().available_bytes();
  const int64_t full = 32 * tokens * 2 * 8 * 128 * 2;
  // 12 of 32 layers whole, 2,112 tokens and a chunk in the others; pools are rounded up to 2 MB.
  EXPECT_NEAR(static_cast<double>(taken) / static_cast<double>(full), 0.385 + 0.005, 0.003);
  EXPECT_NEAR(static_cast<double>(taken), static_cast<double>(cache.bytes_allocated()), 8e6);
}

}  // namespace
}  // namespace longgen::testing
