// Every file of the corpora that fuzzing found, through the same doors: a few seconds, without
// clang.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "longgen/base/mapped_file.h"
#include "tests/fuzz/target.h"

namespace longgen::fuzz {
namespace {

namespace fs = std::filesystem;

const fs::path kCorpus = fs::path(LONGGEN_SOURCE_DIR) / "tests/fuzz/corpus";

std::vector<fs::path> files_of(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

class Replay : public testing::TestWithParam<std::string> {
 protected:
  const Target& target() const { return *find_target(GetParam()); }
};
// Targets that bring mutations of their own; the others rely on libFuzzer's.
class Mutations : public Replay {};

TEST_P(Replay, NoFileOfTheCorpusBreaksItsReader) {
  const auto files = files_of(kCorpus / GetParam());
  EXPECT_GE(files.size(), 5u);
  for (const fs::path& file : files) {
    EXPECT_NO_THROW(target().run(read_text_file(file))) << file;
  }
}

// The mutations run on their own: cut off, grown and flipped, files stay files for their reader.
TEST_P(Mutations, DoNotBreakTheReaderEither) {
  constexpr size_t kMaxBytes = 4096;
  for (const fs::path& file : files_of(kCorpus / GetParam())) {
    std::string bytes = read_text_file(file);
    for (uint32_t seed = 0; seed < 8; ++seed) {
      Draws draw(seed);
      const MutateBytes flip = [&](std::string text, size_t max_size) {
        text.resize(std::min(text.size() + draw.below(2), max_size));
        if (!text.empty()) text[draw.below(text.size())] = static_cast<char>(draw.below(256));
        return text;
      };
      bytes = target().mutate(bytes, kMaxBytes, seed, flip);
      EXPECT_NO_THROW(target().run(bytes)) << file << " with seed " << seed;
    }
  }
}

std::vector<std::string> target_names(bool with_mutations) {
  std::vector<std::string> names;
  for (const Target& target : targets()) {
    if (!with_mutations || target.mutate != nullptr) names.push_back(target.name);
  }
  return names;
}

const auto kName = [](const testing::TestParamInfo<std::string>& info) { return info.param; };
INSTANTIATE_TEST_SUITE_P(Corpus, Replay, testing::ValuesIn(target_names(false)), kName);
INSTANTIATE_TEST_SUITE_P(Corpus, Mutations, testing::ValuesIn(target_names(true)), kName);

TEST(Corpora, BelongToATargetEach) {
  for (const auto& entry : fs::directory_iterator(kCorpus)) {
    EXPECT_NE(find_target(entry.path().filename().string()), nullptr) << entry.path();
  }
}

}  // namespace
}  // namespace longgen::fuzz
