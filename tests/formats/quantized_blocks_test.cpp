// Weights that stay quantised hold the values that dequantising gives.
#include "longgen/formats/quantized_blocks.h"

#include <gmock/gmock.h>

#include <cstring>

#include "formats_testing.h"
#include "longgen/base/rng.h"
#include "longgen/formats/dequantize.h"
#include "longgen/formats/model_file.h"

namespace longgen::formats {
namespace {

using ::testing::HasSubstr;
using namespace longgen::testing;

constexpr GgmlType kTypes[] = {GgmlType::kQ8_0, GgmlType::kQ4_0, GgmlType::kQ4_1, GgmlType::kQ4_K,
                               GgmlType::kQ6_K};

// Random blocks of `count` values whose f16 scales are numbers.
std::string random_blocks(GgmlType type, int64_t count, uint64_t seed) {
  const GgmlTypeInfo& info = *find_ggml_type(static_cast<uint32_t>(type));
  Rng rng(seed, 0);
  std::string bytes(static_cast<size_t>(count / info.block_elements * info.block_bytes), '\0');
  for (char& byte : bytes) byte = static_cast<char>(rng.uniform() * 256);
  for (size_t at = 0; at < bytes.size(); at += static_cast<size_t>(info.block_bytes)) {
    char* block = bytes.data() + at;
    const auto number = [](char& high) { high = static_cast<char>(high & 0xbb); };  // exponent < 31
    number(type == GgmlType::kQ6_K ? block[209] : block[1]);
    if (type == GgmlType::kQ4_1 || type == GgmlType::kQ4_K) number(block[3]);
  }
  return bytes;
}

TEST(QuantizedBlocks, HoldTheValuesOfDequantising) {
  for (const GgmlType type : kTypes) {
    const int64_t n = 35, k = 512;
    const WeightScheme scheme = scheme_of_ggml_type(static_cast<uint32_t>(type));
    ASSERT_NE(scheme, WeightScheme::kPlain);
    const std::string stored = random_blocks(type, n * k, 9);
    std::vector<float> expected(static_cast<size_t>(n * k));
    dequantize(type, reinterpret_cast<const std::byte*>(stored.data()), expected.data(), n * k);
    std::vector<uint8_t> bytes(static_cast<size_t>(quantized::weight_bytes(scheme, n, k)));
    const WeightView w(Tensor::of(std::span(bytes)), scheme, n, k);
    const int64_t size = quantized::row_block(scheme);
    const auto block_bytes = static_cast<int64_t>(stored.size()) / (n * k / size);
    for (int64_t i = 0; i < n * k / size; ++i) {
      const auto block = read_quantized_block(
          scheme, reinterpret_cast<const std::byte*>(stored.data()) + i * block_bytes);
      ASSERT_TRUE(is_finite(scheme, block));
      quantized::store_block(w, i / (k / size), i % (k / size), block);
    }
    std::vector<double> row(static_cast<size_t>(k));
    for (int64_t r = 0; r < n; ++r) {
      quantized::dequantize_row(w, r, row.data());
      double greatest = 0;
      for (const double value : row) greatest = std::max(greatest, std::abs(value));
      const double rounding = quantized::layout(scheme).has_offset ? 1e-6 * greatest : 0;
      for (int64_t i = 0; i < k; ++i) {
        const double value = row[static_cast<size_t>(i)];
        const double other = expected[static_cast<size_t>(r * k + i)];
        // Dequantising rounds to f32 after each operation: what a sum of a product and an offset
        // loses goes with their magnitudes, which the row's greatest value stands for.
        ASSERT_NEAR(value, other, 1e-7 * std::abs(value) + rounding)
            << quantized::scheme_name(scheme) << " row " << r << " column " << i;
      }
    }
  }
}

// A tiny Llama with matrices of several types; MLP 48 keeps one matrix from being Q4_1.
class QuantizedModel : public ::testing::Test {
 protected:
  void SetUp() override {
    config_ = tiny_config(true);
    builder_ = tiny_gguf(config_);
    requantize("token_embd.weight", config_.vocab_size, GgmlType::kQ8_0, 1);
    for (const char* layer : {"blk.0.", "blk.1."}) {
      requantize(std::string(layer) + "attn_q.weight", 32, GgmlType::kQ4_1, 2);
      requantize(std::string(layer) + "attn_k.weight", 16, GgmlType::kQ4_0, 3);
      requantize(std::string(layer) + "ffn_up.weight", 48, GgmlType::kQ8_0, 4);
    }
  }

  void requantize(const std::string& name, int64_t rows, GgmlType type, uint64_t seed) {
    builder_.erase_tensor(name);
    builder_.tensor(name, {32, static_cast<uint64_t>(rows)}, static_cast<uint32_t>(type),
                    random_blocks(type, rows * 32, seed));
  }

  TempFolder folder_;
  model::ModelConfig config_;
  GgufBuilder builder_;
};

TEST_F(QuantizedModel, LoadsAsStoredWithRowsInOrder) {
  const auto file = ModelFile::open(folder_.write("q.gguf", builder_.build()));
  HostMemory memory;
  const std::vector<WeightScheme> schemes = file.weight_schemes();
  const model::ParameterSet kept("weights", config_, DType::kF32, memory, schemes);
  const model::ParameterSet plain("weights", config_, DType::kF32, memory);
  file.read_weights(kept);
  file.read_weights(plain);
  EXPECT_LT(kept.bytes(), plain.bytes());
  EXPECT_EQ(kept.description(), "Q8_0, Q4_1, Q4_0, f32");
  EXPECT_EQ(plain.description(), "f32");
  int quantised = 0;
  for (size_t i = 0; i < schemes.size(); ++i) {
    const WeightView w = kept.view(i);
    if (w.is_plain()) {
      EXPECT_EQ(
          std::memcmp(w.data.raw(), plain.tensors()[i].raw(), static_cast<size_t>(w.data.bytes())),
          0);
      continue;
    }
    ++quantised;
    std::vector<double> row(static_cast<size_t>(w.k()));
    for (int64_t r = 0; r < w.n(); ++r) {
      quantized::dequantize_row(w, r, row.data());
      for (int64_t c = 0; c < w.k(); ++c) {
        ASSERT_EQ(static_cast<float>(row[static_cast<size_t>(c)]),
                  plain.tensors()[i].data<float>()[r * w.k() + c])
            << kept.specs()[i].name << " row " << r;
      }
    }
  }
  EXPECT_EQ(quantised, 7);
}

TEST_F(QuantizedModel, AScaleThatIsNoNumberIsNamed) {
  std::string blocks = random_blocks(GgmlType::kQ4_1, 32 * 32, 2);
  blocks[20 * 7 + 1] = '\x7c';  // infinity
  blocks[20 * 7] = 0;
  builder_.erase_tensor("blk.1.attn_q.weight");
  builder_.tensor("blk.1.attn_q.weight", {32, 32}, static_cast<uint32_t>(GgmlType::kQ4_1), blocks);
  const auto file = ModelFile::open(folder_.write("q.gguf", builder_.build()));
  HostMemory memory;
  const model::ParameterSet kept("weights", config_, DType::kF32, memory, file.weight_schemes());
  EXPECT_THAT(error_of([&] { file.read_weights(kept); }),
              HasSubstr("tensor blk.1.attn_q.weight [32, 32] Q4_1 holds a scale that is NaN"));
}

}  // namespace
}  // namespace longgen::formats
