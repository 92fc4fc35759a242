// llama.cpp's parity vectors: 46 strings per vocabulary.
#include <fstream>
#include <sstream>

#include "tests/tokenizer/tokenizer_test_data.h"

namespace longgen::tokenizer::testing {
namespace {

std::vector<std::string> read_inputs(const fs::path& path) {
  static const std::string kSeparator = "\n__ggml_vocab_test__\n";
  const std::string text = read_text_file(path);
  std::vector<std::string> inputs;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find(kSeparator, begin);
    if (end == std::string::npos) break;
    inputs.push_back(text.substr(begin, end - begin));
    begin = end + kSeparator.size();
  }
  return inputs;
}

std::vector<std::vector<int32_t>> read_outputs(const fs::path& path) {
  std::vector<std::vector<int32_t>> outputs;
  std::istringstream lines(read_text_file(path));
  for (std::string line; std::getline(lines, line);) {
    std::istringstream numbers(line);
    outputs.emplace_back();
    for (int32_t id; numbers >> id;) outputs.back().push_back(id);
  }
  return outputs;
}

void check_vectors(const Tokenizer& tokenizer, const fs::path& stem) {
  const auto inputs = read_inputs(stem.string() + ".inp");
  const auto outputs = read_outputs(stem.string() + ".out");
  ASSERT_EQ(inputs.size(), 46u);
  ASSERT_EQ(outputs.size(), inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    EXPECT_EQ(tokenizer.encode(inputs[i]), outputs[i]) << "text " << i << ": '" << inputs[i] << "'";
    EXPECT_EQ(tokenizer.decode(outputs[i]), inputs[i]) << "text " << i;
  }
}

class Vectors : public ::testing::TestWithParam<const char*> {};

TEST_P(Vectors, EveryTextHasItsIds) {
  const fs::path path = tokenizer_file(std::string("ggml-vocab-") + GetParam() + ".gguf");
  if (path.empty()) GTEST_SKIP() << kNoData;
  check_vectors(*load_tokenizer(path), path);
}

// What save() writes must be the same tokenizer when read again from tokenizer.json alone.
TEST_P(Vectors, EveryTextHasItsIdsAfterSaving) {
  const fs::path path = tokenizer_file(std::string("ggml-vocab-") + GetParam() + ".gguf");
  if (path.empty()) GTEST_SKIP() << kNoData;
  const ScratchFolder directory;
  load_tokenizer(path)->save(directory.path());
  fs::remove(directory.path() / "tokenizer.model");
  check_vectors(*load_tokenizer(directory.path()), path);
}

INSTANTIATE_TEST_SUITE_P(Families, Vectors,
                         ::testing::Values("gpt-2", "starcoder", "llama-spm", "phi-3"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(Vectors, Llama2ModelFileHasTheSameIds) {
  const fs::path vectors = tokenizer_file("ggml-vocab-llama-spm.gguf");
  const fs::path model = tokenizer_file("llama-2-tokenizer.model");
  if (vectors.empty() || model.empty()) GTEST_SKIP() << kNoData;
  const ScratchFolder directory;
  fs::copy_file(model, directory.path() / "tokenizer.model");
  const auto tokenizer = load_tokenizer(directory.path());
  EXPECT_EQ(tokenizer->vocab_size(), 32000);
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 2);
  EXPECT_TRUE(tokenizer->adds_bos());
  check_vectors(*tokenizer, vectors);
}

}  // namespace
}  // namespace longgen::tokenizer::testing
