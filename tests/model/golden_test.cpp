// Logits, loss and every gradient against PyTorch in fp64.
#include <gtest/gtest.h>

#include "longgen/model/decoder.h"
#include "tests/testing/golden_model.h"

namespace longgen::model {
namespace {

using longgen::testing::GoldenModel;
using longgen::testing::relative_l2;
using longgen::testing::to_doubles;

// The rows of documents, of [T, V].
std::vector<double> real_rows(const GoldenModel& golden, const std::vector<double>& logits) {
  std::vector<double> real;
  const auto v = static_cast<size_t>(golden.config.vocab_size);
  for (size_t t = 0; t < golden.ids.size(); ++t) {
    if (!golden.is_real(static_cast<int64_t>(t))) continue;
    real.insert(real.end(), logits.begin() + static_cast<int64_t>(t * v),
                logits.begin() + static_cast<int64_t>((t + 1) * v));
  }
  return real;
}

void compare(const std::string& name, Backend& backend, DType dtype, double bound) {
  const GoldenModel golden(name);
  golden.config.validate();
  HostMemory memory;
  const auto weights = golden.weights(dtype, memory);
  const auto tokens = static_cast<int64_t>(golden.ids.size());
  TrainingPass pass(golden.config, *weights, backend, tokens, {.mlp_chunk = 37, .loss_chunk = 23},
                    memory);
  const DType acc = accumulation_dtype(dtype);

  std::vector<std::byte> storage(
      static_cast<size_t>(tokens * golden.config.vocab_size * dtype_size(acc)));
  const Tensor logits(storage.data(), acc, {tokens, golden.config.vocab_size});
  pass.logits(golden.sequence(), logits);
  EXPECT_LE(relative_l2(real_rows(golden, to_doubles(logits)),
                        real_rows(golden, golden.values("logits"))),
            bound);

  ParameterSet gradients("gradients", golden.config, acc, memory);
  const auto count = static_cast<double>(golden.valid_labels());
  const LossSum loss = pass.forward_backward(golden.sequence(), 1 / count, gradients);
  EXPECT_EQ(loss.count, golden.valid_labels());
  const double expected = golden.values("loss")[0];
  EXPECT_NEAR(loss.loss / count, expected, bound * expected);
  for (size_t i = 0; i < gradients.specs().size(); ++i) {
    const std::string& parameter = gradients.specs()[i].name;
    EXPECT_LE(relative_l2(to_doubles(gradients.tensors()[i]), golden.gradient(parameter)), bound)
        << parameter;
  }
}

class Golden : public ::testing::TestWithParam<std::string> {};

// fp64 against fp64: only the order of sums differs.
TEST_P(Golden, ReferenceIsPyTorchInFp64) {
  compare(GetParam(), *make_reference_backend(), DType::kF64, 1e-10);
}

INSTANTIATE_TEST_SUITE_P(Models, Golden, ::testing::ValuesIn(longgen::testing::golden_cases()),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace longgen::model
