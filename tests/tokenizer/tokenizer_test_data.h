// Where the tests of this folder find their data.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "longgen/base/mapped_file.h"
#include "longgen/formats/json.h"
#include "longgen/tokenizer/load.h"
#include "tests/testing/scratch_folder.h"

namespace longgen::tokenizer::testing {

namespace fs = std::filesystem;
using longgen::testing::ScratchFolder;

// `variable`'s folder or file, with `relative` below it. Empty, and the test marked as skipped
// (failed under LONGGEN_REQUIRE_DATA=1), when it is not there: the caller returns.
inline fs::path test_file(const char* variable, const std::string& relative = "") {
  const char* base = std::getenv(variable);
  if (base != nullptr) {
    const fs::path path = relative.empty() ? fs::path(base) : fs::path(base) / relative;
    if (fs::exists(path)) return path;
  }
  const char* required = std::getenv("LONGGEN_REQUIRE_DATA");
  if (required != nullptr && std::string(required) == "1") {
    ADD_FAILURE() << "missing test data: " << variable << "/" << relative;
  }
  return {};
}

inline fs::path tokenizer_file(const std::string& name) {
  return test_file("LONGGEN_TEST_DATA", "tokenizers/" + name);
}
inline fs::path smollm2_file() { return test_file("LONGGEN_TEST_MODEL"); }

inline constexpr const char* kNoData =
    "SKIPPED: the test data is not there (see LONGGEN_TEST_DATA, LONGGEN_TEST_MODEL)";

inline fs::path golden_file(const std::string& name) {
  return fs::path(LONGGEN_SOURCE_DIR) / "tests/golden/tokenizer" / name;
}

// Texts in which anything may stand beside anything: UTF-8 of many kinds, and damaged UTF-8.
inline std::vector<std::string> odd_texts(int count, uint32_t seed) {
  static const std::vector<std::string> kParts = {" ",
                                                  "  ",
                                                  "\n",
                                                  "\t",
                                                  "\r\n",
                                                  "a",
                                                  "the",
                                                  " of",
                                                  "'s",
                                                  "12",
                                                  "9",
                                                  "\xC3\xA9",
                                                  "\xE4\xB8\xAD",
                                                  "\xF0\x9F\x98\x80",
                                                  "\xCC\x81",
                                                  "\xC2\xA0",
                                                  "<|im_end|>",
                                                  "</s>",
                                                  "<unk>",
                                                  "_",
                                                  "...",
                                                  std::string(1, '\0'),
                                                  "\xFF",
                                                  "\xC3",
                                                  "\xE2\x82",
                                                  "\xF0\x9F\x98",
                                                  "\x80\x80",
                                                  "\xED\xA0\x80",
                                                  "!",
                                                  "Hello",
                                                  "\xD0\x9F\xD1\x80"};
  std::mt19937 random(seed);
  std::vector<std::string> texts;
  for (int i = 0; i < count; ++i) {
    std::string text;
    for (int n = static_cast<int>(random() % 40); n > 0; --n)
      text += kParts[random() % kParts.size()];
    texts.push_back(text);
  }
  return texts;
}

}  // namespace longgen::tokenizer::testing
