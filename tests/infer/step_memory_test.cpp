// What serving needs is taken when cache and pass are made: a prompt's chunks and decoding steps
// ask for nothing, with pages that come back and are used again.
#include <gtest/gtest.h>

#include "longgen/infer/kv_cache.h"
#include "longgen/model/decoder.h"
#include "tests/testing/counting_memory.h"
#include "tests/testing/golden_model.h"

namespace longgen::infer {
namespace {

TEST(StepMemory, PromptAndDecodingAllocateNothing) {
  constexpr int64_t kChunk = 16, kTokens = 96;
  const testing::GoldenModel golden("hybrid_sink_window");
  testing::CountingMemory memory;
  const auto backend = make_cpu_backend(2);
  const auto weights = golden.weights(DType::kF32, memory);
  KvCache cache(golden.config, DType::kF32, 2, kTokens, memory, kChunk);
  model::IncrementalPass pass(golden.config, *weights, *backend, kChunk, 2, kTokens, memory);
  const int64_t before = memory.allocations();
  EXPECT_GE(before, 3);
  for (int run = 0; run < 2; ++run) {
    const int64_t sequence = cache.add_sequence();
    while (cache.length(sequence) < kTokens) {
      const int64_t begin = cache.length(sequence);
      const int64_t count = begin < 64 ? kChunk : 1;  // the prompt, then token by token
      const std::vector<int32_t> ids(static_cast<size_t>(count), 1);
      cache.extend(sequence, count);
      const model::SequenceChunk chunk{sequence, begin, ids};
      const int64_t last = count - 1;
      EXPECT_TRUE(pass.forward({&chunk, 1}, cache, {&last, 1}).defined());
      cache.release_before(sequence, begin + count);
    }
    cache.remove_sequence(sequence);
  }
  EXPECT_EQ(memory.allocations(), before);
}

}  // namespace
}  // namespace longgen::infer
