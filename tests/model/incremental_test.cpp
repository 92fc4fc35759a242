// Decoding over a cache that gives blocks back against the whole forward: bit-equal on the
// reference.
#include <gtest/gtest.h>

#include <algorithm>

#include "longgen/model/decoder.h"
#include "tests/testing/golden_model.h"
#include "tests/testing/paged_store.h"
#include "tests/testing/poisoned_memory.h"

namespace longgen::model {
namespace {

using longgen::testing::GoldenModel;
using longgen::testing::PagedStore;
using longgen::testing::PoisonedMemory;
using longgen::testing::to_doubles;

struct Fixture {
  explicit Fixture(const std::string& name) : golden(name) {
    weights = golden.weights(DType::kF64, memory);
    tokens = static_cast<int64_t>(golden.ids.size());
  }
  const ModelConfig& config() const { return golden.config; }
  int64_t blocks() const { return tokens / golden.config.patterns[0].block_size + 1; }

  // Of the first n ids as one document.
  std::vector<double> whole_logits(int64_t n) {
    TrainingPass pass(config(), *weights, *backend, tokens, {.mlp_chunk = 37, .loss_chunk = 64},
                      memory);
    std::vector<double> logits(static_cast<size_t>(n * config().vocab_size));
    const std::vector<int32_t> labels(static_cast<size_t>(n), -1);
    pass.logits({std::span(golden.ids).first(static_cast<size_t>(n)), labels, {}},
                Tensor(logits.data(), DType::kF64, {n, config().vocab_size}));
    return logits;
  }

  GoldenModel golden;
  PoisonedMemory memory;
  std::unique_ptr<Backend> backend = make_reference_backend();
  std::unique_ptr<ParameterSet> weights;
  int64_t tokens;
};

std::vector<int64_t> all_rows(int64_t n) {
  std::vector<int64_t> rows(static_cast<size_t>(n));
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int64_t>(i);
  return rows;
}

class Incremental : public ::testing::TestWithParam<std::string> {};

TEST_P(Incremental, ChunksOverAnEvictingCacheAreTheWholeForward) {
  Fixture f(GetParam());
  const std::vector<double> whole = f.whole_logits(f.tokens);
  for (const int64_t chunk : {int64_t{1}, int64_t{3}, int64_t{16}, int64_t{17}, f.tokens}) {
    for (const bool merge_heads : {true, false}) {
      PagedStore store(f.config(), DType::kF64, 1, f.blocks(), merge_heads);
      IncrementalPass pass(f.config(), *f.weights, *f.backend, chunk, chunk, f.tokens, f.memory);
      std::vector<double> logits;
      int64_t most_pages = 0;
      for (int64_t begin = 0; begin < f.tokens; begin += chunk) {
        const int64_t count = std::min(chunk, f.tokens - begin);
        store.extend(0, count);
        const SequenceChunk part{
            .sequence = 0,
            .first_position = begin,
            .ids = std::span(f.golden.ids)
                       .subspan(static_cast<size_t>(begin), static_cast<size_t>(count))};
        const auto rows = to_doubles(pass.forward({&part, 1}, store, all_rows(count)));
        logits.insert(logits.end(), rows.begin(), rows.end());
        store.release_dead(0);
        most_pages = std::max(most_pages, store.pages_in_use());
      }
      EXPECT_EQ(logits, whole) << "chunks of " << chunk;
      if (GetParam() == "hybrid_sink_window" && merge_heads) {
        // 10 blocks; two layers keep all, the other two a sink block and at most two local ones.
        EXPECT_LE(most_pages, 2 * 10 + 2 * 3);
      }
    }
  }
}

// Of a prompt's chunks every second asks for its last row, the others for none: the last layer then
// leaves out what only other rows' logits would need.
TEST_P(Incremental, LastRowsOfChunksAreThoseOfTheWholeForward) {
  Fixture f(GetParam());
  const std::vector<double> whole = f.whole_logits(f.tokens);
  const auto v = static_cast<size_t>(f.config().vocab_size);
  for (const int64_t chunk : {int64_t{2}, int64_t{17}, f.tokens}) {
    PagedStore store(f.config(), DType::kF64, 1, f.blocks());
    IncrementalPass pass(f.config(), *f.weights, *f.backend, chunk, 1, f.tokens, f.memory);
    bool asks = false;
    for (int64_t begin = 0; begin < f.tokens; begin += chunk) {
      const int64_t count = std::min(chunk, f.tokens - begin), last = count - 1;
      asks = !asks || begin + count == f.tokens;
      store.extend(0, count);
      const SequenceChunk part{
          0, begin,
          std::span(f.golden.ids).subspan(static_cast<size_t>(begin), static_cast<size_t>(count))};
      const auto row = to_doubles(
          pass.forward({&part, 1}, store,
                       asks ? std::span<const int64_t>(&last, 1) : std::span<const int64_t>()));
      store.release_dead(0);
      ASSERT_EQ(row.size(), asks ? v : 0);
      if (!asks) continue;
      const double* expected = &whole[static_cast<size_t>(begin + last) * v];
      EXPECT_EQ(row, std::vector<double>(expected, expected + v))
          << "chunks of " << chunk << ", position " << begin + last;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Incremental, ::testing::ValuesIn(longgen::testing::golden_cases()),
                         [](const auto& test) { return test.param; });

// A prompt of which only the last row is asked for, then decoding: upper layers with windows leave
// out rows that nobody reads, which lie poisoned in the cache.
TEST(IncrementalPrompt, LeavesOutWhatNobodyReads) {
  Fixture f("hybrid_sink_window");
  const int64_t block = f.config().patterns[0].block_size;
  const AttentionPattern full = AttentionPattern::full(block);
  const AttentionPattern window{.block_size = block, .sink_blocks = 0, .local_blocks = 2};
  const AttentionPattern sinks{.block_size = block, .sink_blocks = 1, .local_blocks = 1};
  const AttentionPattern strided{.block_size = block, .local_blocks = 1, .stride = 2};
  const auto layers = static_cast<size_t>(f.config().num_layers);
  const auto v = static_cast<size_t>(f.config().vocab_size);
  for (const std::vector<AttentionPattern>& top :
       {std::vector{sinks}, {window}, {full, sinks}, {full, window}, {strided, sinks}}) {
    // Every layer as the last of these, but for what stands below it.
    f.golden.config.patterns.assign(layers, top.back());
    std::copy(top.begin(), top.end() - 1, f.golden.config.patterns.begin());
    const std::vector<double> whole = f.whole_logits(f.tokens);
    for (const int64_t prompt : {f.tokens - 3, f.tokens * 2 / 3, 2 * block, int64_t{1}}) {
      for (const int64_t chunk : {int64_t{5}, block, 3 * block + 1, f.tokens}) {
        PagedStore store(f.config(), DType::kF64, 1, f.blocks());
        IncrementalPass pass(f.config(), *f.weights, *f.backend, chunk, 1, f.tokens, f.memory);
        for (int64_t begin = 0; begin < f.tokens;) {
          const int64_t end = begin < prompt ? std::min(begin + chunk, prompt) : begin + 1;
          const int64_t last = end - begin - 1;
          store.extend(0, end - begin);
          const SequenceChunk part{
              0, begin,
              std::span(f.golden.ids)
                  .subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)),
              /*asks_from=*/prompt - 1};
          const bool asks = end >= prompt;
          const auto row = to_doubles(
              pass.forward({&part, 1}, store,
                           asks ? std::span<const int64_t>(&last, 1) : std::span<const int64_t>()));
          store.release_dead(0);
          begin = end;
          if (!asks) continue;
          const double* expected = &whole[static_cast<size_t>(end - 1) * v];
          ASSERT_EQ(row, std::vector<double>(expected, expected + v))
              << top.back().to_string() << ", chunks of " << chunk << ", prompt " << prompt
              << ", position " << end - 1;
        }
      }
    }
  }
}

// Three sequences of different lengths, run together: prefill of one beside decode of others.
TEST(IncrementalBatch, EachSequenceIsAsIfAlone) {
  for (const char* name : {"hybrid_strided_heads", "hybrid_window", "opt"}) {
    Fixture f(name);
    const std::vector<int64_t> lengths = {f.tokens, f.tokens / 2 + 1, 19};
    const std::vector<int64_t> steps = {7, 1, 5};
    const auto v = static_cast<size_t>(f.config().vocab_size);
    PagedStore store(f.config(), DType::kF64, 3, f.blocks());
    IncrementalPass pass(f.config(), *f.weights, *f.backend, 13, 3, f.tokens, f.memory);
    std::vector<std::vector<double>> last_rows(3), expected(3);
    for (size_t s = 0; s < 3; ++s) expected[s] = f.whole_logits(lengths[s]);
    std::vector<int64_t> at(3, 0);
    for (bool running = true; running;) {
      std::vector<SequenceChunk> chunks;
      std::vector<int64_t> logit_rows;
      int64_t rows = 0;
      for (size_t s = 0; s < 3; ++s) {
        const int64_t count = std::min(steps[s], lengths[s] - at[s]);
        if (count == 0) continue;
        const auto sequence = static_cast<int64_t>(s);
        store.extend(sequence, count);
        chunks.push_back({sequence, at[s],
                          std::span(f.golden.ids)
                              .subspan(static_cast<size_t>(at[s]), static_cast<size_t>(count))});
        rows += count;
        at[s] += count;
        logit_rows.push_back(rows - 1);
      }
      running = !chunks.empty();
      if (!running) break;
      const auto logits = to_doubles(pass.forward(chunks, store, logit_rows));
      for (size_t i = 0; i < chunks.size(); ++i) {
        const auto s = static_cast<size_t>(chunks[i].sequence);
        const auto row = static_cast<size_t>(at[s] - 1);
        ASSERT_EQ(std::vector<double>(&logits[i * v], &logits[i * v] + v),
                  std::vector<double>(&expected[s][row * v], &expected[s][row * v] + v))
            << name << ", sequence " << s << ", position " << row;
        store.release_dead(chunks[i].sequence);
      }
    }
  }
}

TEST(IncrementalPassErrors, NameWhatIsTooLarge) {
  Fixture f("llama_gqa");
  PagedStore store(f.config(), DType::kF64, 1, f.blocks());
  IncrementalPass pass(f.config(), *f.weights, *f.backend, 4, 1, 8, f.memory);
  store.extend(0, 9);
  const auto run = [&](int64_t position, int64_t count, std::vector<int64_t> rows) {
    const SequenceChunk chunk{0, position,
                              std::span(f.golden.ids).first(static_cast<size_t>(count))};
    pass.forward({&chunk, 1}, store, rows);
  };
  run(0, 4, {3});
  EXPECT_THROW(run(0, 5, {}), Error);      // rows
  EXPECT_THROW(run(6, 3, {}), Error);      // positions
  EXPECT_THROW(run(0, 4, {1, 2}), Error);  // logit rows
  const SequenceChunk promised{0, 0, std::span(f.golden.ids).first(4), /*asks_from=*/3};
  const int64_t earlier = 2;
  EXPECT_THROW(pass.forward({&promised, 1}, store, {&earlier, 1}), Error);
}

}  // namespace
}  // namespace longgen::model
