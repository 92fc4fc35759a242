// Every file of the corpora that fuzzing found, through the same doors: a few seconds, without
// clang.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <set>
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

class Replay : public testing::TestWithParam<const Target*> {};

TEST_P(Replay, NoFileOfTheCorpusBreaksItsReader) {
  const auto files = files_of(kCorpus / GetParam()->name);
  EXPECT_GE(files.size(), 5u);
  for (const fs::path& file : files) {
    EXPECT_NO_THROW(GetParam()->run(read_text_file(file))) << file;
  }
}

// The mutations run on their own: cut off, grown and flipped, files stay files for their reader.
TEST_P(Replay, MutatedFilesDoNotEither) {
  if (GetParam()->mutate == nullptr) GTEST_SKIP() << "libFuzzer's own mutations alone";
  constexpr size_t kMaxBytes = 4096;
  for (const fs::path& file : files_of(kCorpus / GetParam()->name)) {
    std::string bytes = read_text_file(file);
    for (uint32_t seed = 0; seed < 8; ++seed) {
      Draws draw(seed);
      const MutateBytes flip = [&](std::string text, size_t max_size) {
        text.resize(std::min(text.size() + draw.below(2), max_size));
        if (!text.empty()) text[draw.below(text.size())] = static_cast<char>(draw.below(256));
        return text;
      };
      bytes = GetParam()->mutate(bytes, kMaxBytes, seed, flip);
      EXPECT_NO_THROW(GetParam()->run(bytes)) << file << " with seed " << seed;
    }
  }
}

std::vector<const Target*> all_targets() {
  std::vector<const Target*> all;
  for (const Target& target : targets()) all.push_back(&target);
  return all;
}

INSTANTIATE_TEST_SUITE_P(Corpus, Replay, testing::ValuesIn(all_targets()),
                         [](const auto& info) { return info.param->name; });

TEST(Corpora, BelongToATargetEach) {
  for (const auto& entry : fs::directory_iterator(kCorpus)) {
    EXPECT_NE(find_target(entry.path().filename().string()), nullptr) << entry.path();
  }
}

}  // namespace
}  // namespace longgen::fuzz
