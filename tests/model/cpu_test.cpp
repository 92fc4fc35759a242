// The decoder on the cpu backend: against PyTorch, whole against incremental, and the promises that
// hold bit for bit.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "longgen/backend/cpu/cpu_features.h"
#include "longgen/formats/json.h"
#include "longgen/model/decoder.h"
#include "tests/testing/golden_model.h"
#include "tests/testing/paged_store.h"
#include "tests/testing/poisoned_memory.h"

namespace longgen::model {
namespace {

using longgen::testing::GoldenModel;
using longgen::testing::PagedStore;
using longgen::testing::PoisonedMemory;
using longgen::testing::relative_l2;
using longgen::testing::to_doubles;

// Twice the error of Transformers' plain bf16 on the same model: `what` is "logits" or "gradients".
double bf16_bound(const std::string& name, const std::string& what) {
  const auto table =
      formats::read_json_file(std::string(LONGGEN_SOURCE_DIR) + "/tests/golden/models_bf16.json");
  return 2 * table.at(name).at(what).get<double>();
}

struct Fixture {
  Fixture(const std::string& name, DType dtype)
      : golden(name), dtype(dtype), weights(golden.weights(dtype, memory)) {
    tokens = static_cast<int64_t>(golden.ids.size());
  }

  std::vector<double> logits(const PackedSequence& sequence) {
    TrainingPass pass(golden.config, *weights, *backend, tokens, {}, poisoned);
    const auto n = static_cast<int64_t>(sequence.ids.size());
    std::vector<float> storage(static_cast<size_t>(n * golden.config.vocab_size));
    const Tensor out(storage.data(), DType::kF32, {n, golden.config.vocab_size});
    pass.logits(sequence, out);
    return to_doubles(out);
  }
  // The loss, then every gradient.
  std::vector<std::vector<double>> run(const TrainOptions& options, const PackedSequence& sequence,
                                       double scale) {
    TrainingPass pass(golden.config, *weights, *backend, tokens, options, poisoned);
    ParameterSet gradients("gradients", golden.config, DType::kF32, memory);
    std::vector<std::vector<double>> result;
    result.push_back({pass.forward_backward(sequence, scale, gradients).loss});
    for (const Tensor& g : gradients.tensors()) result.push_back(to_doubles(g));
    return result;
  }

  GoldenModel golden;
  DType dtype;
  HostMemory memory;
  PoisonedMemory poisoned;
  std::unique_ptr<Backend> backend = make_cpu_backend(2);
  std::unique_ptr<ParameterSet> weights;
  int64_t tokens;
};

// The rows of documents.
std::vector<double> real_rows(const GoldenModel& golden, const std::vector<double>& logits) {
  std::vector<double> real;
  const auto v = golden.config.vocab_size;
  for (int64_t t = 0; t < static_cast<int64_t>(golden.ids.size()); ++t) {
    if (!golden.is_real(t)) continue;
    real.insert(real.end(), logits.begin() + t * v, logits.begin() + (t + 1) * v);
  }
  return real;
}

class Cpu : public ::testing::TestWithParam<std::string> {};

// PyTorch's own fp32 is within 1.3e-6 (logits) and 4.2e-6 (gradients) of these files.
void expect_pytorch_in_fp32(const std::string& model, CpuIsa isa) {
  Fixture f(model, DType::kF32);
  f.backend = make_cpu_backend(2, isa);
  const auto count = static_cast<double>(f.golden.valid_labels());
  EXPECT_LE(relative_l2(real_rows(f.golden, f.logits(f.golden.sequence())),
                        real_rows(f.golden, f.golden.values("logits"))),
            1e-5);
  const auto result = f.run({.mlp_chunk = 37, .loss_chunk = 23}, f.golden.sequence(), 1 / count);
  EXPECT_NEAR(result[0][0] / count, f.golden.values("loss")[0], 1e-5 * f.golden.values("loss")[0]);
  for (size_t i = 0; i < f.weights->specs().size(); ++i) {
    const std::string& name = f.weights->specs()[i].name;
    EXPECT_LE(relative_l2(result[i + 1], f.golden.gradient(name)), 1e-5) << name;
  }
}

void expect_as_close_as_plain_bf16(const std::string& model, CpuIsa isa) {
  Fixture f(model, DType::kBF16);
  f.backend = make_cpu_backend(2, isa);
  EXPECT_LE(relative_l2(real_rows(f.golden, f.logits(f.golden.sequence())),
                        real_rows(f.golden, f.golden.values("logits"))),
            bf16_bound(model, "logits"));

  const auto count = static_cast<double>(f.golden.valid_labels());
  const auto result = f.run({}, f.golden.sequence(), 1 / count);
  std::vector<double> got, wanted;
  for (size_t i = 0; i < f.weights->specs().size(); ++i) {
    const auto gradient = f.golden.gradient(f.weights->specs()[i].name);
    got.insert(got.end(), result[i + 1].begin(), result[i + 1].end());
    wanted.insert(wanted.end(), gradient.begin(), gradient.end());
  }
  EXPECT_LE(relative_l2(got, wanted), bf16_bound(model, "gradients"));
}

TEST_P(Cpu, Fp32IsPyTorchOnEveryInstructionSet) {
  for (const CpuIsa isa : available_cpu_isas()) {
    SCOPED_TRACE(cpu_isa_name(isa));
    expect_pytorch_in_fp32(GetParam(), isa);
  }
}

TEST_P(Cpu, Bf16IsAsCloseAsPlainBf16OnEveryInstructionSet) {
  for (const CpuIsa isa : available_cpu_isas()) {
    SCOPED_TRACE(cpu_isa_name(isa));
    expect_as_close_as_plain_bf16(GetParam(), isa);
  }
}

TEST_P(Cpu, RecomputationAndPoisonedPaddingChangeNoBit) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    Fixture f(GetParam(), dtype);
    std::vector<int32_t> poisoned = f.golden.ids;
    for (size_t i = 0; i < poisoned.size(); ++i) {
      if (!f.golden.is_real(static_cast<int64_t>(i))) poisoned[i] = -99;
    }
    const auto a =
        f.run({.recompute = true, .mlp_chunk = 48, .loss_chunk = 32}, f.golden.sequence(), 0.125);
    const auto b = f.run({.recompute = false, .mlp_chunk = 48, .loss_chunk = 32},
                         {poisoned, f.golden.labels, f.golden.documents}, 0.125);
    EXPECT_TRUE(a == b);
    EXPECT_TRUE(std::isfinite(a[0][0]));
  }
}

// Differences come from the order of sums within tiles, which depends on how rows are cut. The same
// token must be chosen wherever the two best are further apart than the logits differ.
void expect_close(const std::vector<double>& got, const std::vector<double>& whole, int64_t vocab,
                  double bound, const std::string& where) {
  EXPECT_LE(relative_l2(got, whole), bound) << where;
  double square = 0;
  for (const double x : whole) square += x * x;
  const double margin = 10 * bound * std::sqrt(square / static_cast<double>(whole.size()));
  for (size_t row = 0; row < whole.size(); row += static_cast<size_t>(vocab)) {
    std::vector<double> sorted(whole.begin() + static_cast<int64_t>(row),
                               whole.begin() + static_cast<int64_t>(row) + vocab);
    const auto best = std::max_element(sorted.begin(), sorted.end()) - sorted.begin();
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    if (sorted[0] - sorted[1] <= margin) continue;
    const auto begin = got.begin() + static_cast<int64_t>(row);
    EXPECT_EQ(std::max_element(begin, begin + vocab) - begin, best) << where << ", row " << row;
  }
}

TEST_P(Cpu, IncrementalIsWhole) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    Fixture f(GetParam(), dtype);
    const std::vector<int32_t> labels(f.golden.ids.size(), -1);
    const auto whole = f.logits({f.golden.ids, labels, {}});
    for (const int64_t chunk : {int64_t{1}, int64_t{3}, int64_t{16}, int64_t{17}, f.tokens}) {
      PagedStore store(f.golden.config, dtype, 1,
                       f.tokens / f.golden.config.patterns[0].block_size + 1);
      IncrementalPass pass(f.golden.config, *f.weights, *f.backend, chunk, chunk, f.tokens,
                           f.poisoned);
      std::vector<double> logits;
      for (int64_t begin = 0; begin < f.tokens; begin += chunk) {
        const int64_t count = std::min(chunk, f.tokens - begin);
        store.extend(0, count);
        const SequenceChunk part{
            0, begin,
            std::span(f.golden.ids)
                .subspan(static_cast<size_t>(begin), static_cast<size_t>(count))};
        std::vector<int64_t> rows;
        for (int64_t i = 0; i < count; ++i) rows.push_back(i);
        const auto part_logits = to_doubles(pass.forward({&part, 1}, store, rows));
        logits.insert(logits.end(), part_logits.begin(), part_logits.end());
        store.release_dead(0);
      }
      expect_close(logits, whole, f.golden.config.vocab_size,
                   dtype == DType::kF32 ? 2e-6 : bf16_bound(GetParam(), "logits"),
                   fmt::format("{}, chunks of {}", dtype_name(dtype), chunk));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Cpu, ::testing::ValuesIn(longgen::testing::golden_cases()),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace longgen::model
