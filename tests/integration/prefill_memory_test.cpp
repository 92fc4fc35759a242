// Pages are really given back: the peak resident memory of a 32K prefill and of decoding behind it,
// as the system counts it.
#include <gmock/gmock.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <regex>

#include "longgen/base/rng.h"
#include "tests/testing/run_program.h"
#include "tests/testing/scratch_folder.h"

namespace longgen {
namespace {

namespace fs = std::filesystem;

// About 32K tokens of common words, one token each.
std::string long_prompt() {
  static const std::vector<std::string> words = {" the",   " house", " river", " man",
                                                 " old",   " water", " and",   " said",
                                                 " night", " time",  " long",  " was"};
  Rng rng(1, 1);
  std::string text = "Once";
  for (int i = 0; i < 32767; ++i) text += words[rng.below(words.size())];
  return text;
}

TEST(PrefillMemory, StaysWithinWeightsLivePagesAndOneChunk) {
  const char* model = std::getenv("LONGGEN_TEST_MODEL");
  if (model == nullptr || !fs::exists(model)) {
    const char* required = std::getenv("LONGGEN_REQUIRE_DATA");
    if (required != nullptr && std::string(required) == "1") {
      FAIL() << "LONGGEN_TEST_MODEL must name SmolLM2's GGUF file";
    }
    GTEST_SKIP() << "SKIPPED: LONGGEN_TEST_MODEL does not name SmolLM2's GGUF file";
  }
  const testing::ScratchFolder scratch;
  const fs::path& folder = scratch.path();
  const std::string hybrid = (folder / "hybrid").string(),
                    prompt = (folder / "prompt.txt").string();
  std::ofstream(prompt) << long_prompt();
  const auto converted = testing::run_program(
      LONGGEN_PROGRAM,
      {"convert", model, "-o", hybrid, "--hybrid", "full=middle:10 sparse=sink-window"}, folder);
  ASSERT_EQ(converted.code, 0) << converted.err;
  const auto result = testing::run_program(
      LONGGEN_PROGRAM,
      {"generate", hybrid, "-f", prompt, "-n", "8", "--dtype", "bf16", "--chunk", "1K"}, folder);
  ASSERT_EQ(result.code, 0) << result.err;

  std::smatch match;
  ASSERT_TRUE(std::regex_search(result.err, match, std::regex("prefill (\\d+) tokens")));
  const int64_t tokens = std::stoll(match[1]);
  ASSERT_NEAR(static_cast<double>(tokens), 32768, 100);

  // SmolLM2: 134,515,008 parameters, 30 layers, keys and values of 3 heads of 64 channels, in bf16.
  const int64_t weights = 2 * int64_t{134515008}, token_of_layer = 2 * 3 * 64 * 2;
  const int64_t live = token_of_layer * (10 * tokens + 20 * 33 * 64),
                chunk = token_of_layer * 30 * 1024;
  const int64_t workspace = 256'000'000;
  const auto bound =
      static_cast<int64_t>(1.05 * static_cast<double>(weights + live + chunk + workspace));
  EXPECT_LE(result.peak_resident_bytes, bound) << result.err;
  // Were every page kept, the cache alone would take 755 MB: the bound can tell.
  EXPECT_GT(weights + token_of_layer * 30 * tokens, bound);
  std::printf("peak resident %.1f MB of at most %.1f MB\n",
              static_cast<double>(result.peak_resident_bytes) / 1e6,
              static_cast<double>(bound) / 1e6);
}

}  // namespace
}  // namespace longgen
