// `longgen inspect` and `longgen convert` as a user runs them.
#include <gmock/gmock.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "tests/testing/program_test.h"

namespace longgen {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::HasSubstr;
using testing::ProgramResult;

class ConvertProgram : public testing::ProgramTest {
 protected:
  static std::string llama2() {
    return std::string(LONGGEN_SOURCE_DIR) + "/tests/formats/data/llama_2_7b_config.json";
  }
  // The real model, or "" when there is none.
  static std::string real_model() {
    const char* path = std::getenv("LONGGEN_TEST_MODEL");
    return path != nullptr && fs::exists(path) ? path : "";
  }
  static bool data_required() {
    const char* required = std::getenv("LONGGEN_REQUIRE_DATA");
    return required != nullptr && std::string(required) == "1";
  }
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_)) {
      names.push_back(entry.path().filename().string());
    }
    return names;
  }
};

TEST_F(ConvertProgram, InspectCountsKeysAndValuesOfABareConfig) {
  const std::vector<std::string> arguments = {"inspect",   llama2(),
                                              "--context", "128K",
                                              "--hybrid",  "full=middle:12 sparse=local:32,sink:1"};
  const auto text = longgen(arguments);
  EXPECT_EQ(text.code, 0) << text.err;
  for (const char* words :
       {"26.46 GB", "68.72 GB", "38.5 %", "10-21", "local:32,sink:1", "2112", "6738415616"}) {
    EXPECT_THAT(text.out, HasSubstr(words));
  }
  auto as_json = arguments;
  as_json.push_back("--json");
  const auto result = longgen(as_json);
  ASSERT_EQ(result.code, 0) << result.err;
  const json figures = json::parse(result.out);
  EXPECT_EQ(figures["kv_bytes"], 26461863936);
  EXPECT_EQ(figures["kv_bytes_all_full"], 68719476736);
  EXPECT_EQ(figures["kv_layers"].size(), 3u);
}

TEST_F(ConvertProgram, BadInputIsNamed) {
  const auto absent = longgen({"inspect", "no-such-model"});
  EXPECT_EQ(absent.code, 1);
  EXPECT_THAT(absent.err, HasSubstr("no-such-model: there is no such file or folder"));
  EXPECT_EQ(longgen({"inspect"}).code, 2);
  const auto spec = longgen({"inspect", llama2(), "--hybrid", "full=middle:99 sparse=sink-window"});
  EXPECT_EQ(spec.code, 2);
  EXPECT_THAT(spec.err, HasSubstr("99"));
  EXPECT_EQ(longgen({"inspect", llama2(), "--context", "12Q"}).code, 2);
  EXPECT_EQ(longgen({"convert", llama2()}).code, 2);  // no -o
  const auto no_weights = longgen({"convert", llama2(), "-o", path("out")});
  EXPECT_EQ(no_weights.code, 1);
  EXPECT_THAT(no_weights.err, HasSubstr("there are no weights here"));
  std::ofstream(folder_ / "torn.gguf") << "GGUF\3";
  const auto torn = longgen({"inspect", path("torn.gguf")});
  EXPECT_EQ(torn.code, 1);
  EXPECT_THAT(torn.err, HasSubstr("torn.gguf: version at offset 4 needs 4 bytes"));
  EXPECT_FALSE(fs::exists(folder_ / "out"));
}

TEST_F(ConvertProgram, ConvertsTheRealModel) {
  const std::string model = real_model();
  ASSERT_TRUE(!model.empty() || !data_required()) << "LONGGEN_TEST_MODEL must name the model";
  if (model.empty()) GTEST_SKIP() << "LONGGEN_TEST_MODEL does not name SmolLM2's GGUF file";
  const std::vector<std::string> convert = {"convert",
                                            model,
                                            "-o",
                                            path("out"),
                                            "--hybrid",
                                            "full=middle:10 sparse=sink-window",
                                            "--dtype",
                                            "bf16",
                                            "--rope-theta",
                                            "400000",
                                            "--max-position",
                                            "16K"};
  const auto first = longgen(convert);
  ASSERT_EQ(first.code, 0) << first.err;
  const json config = json::parse(std::ifstream(folder_ / "out" / "config.json"));
  EXPECT_EQ(config["model_type"], "longgen");
  EXPECT_EQ(config["rope_theta"], 400000.0);
  EXPECT_EQ(config["max_position_embeddings"], 16384);
  EXPECT_EQ(config["dtype"], "bfloat16");
  for (const char* file : {"model.safetensors", "tokenizer.json", "tokenizer_config.json",
                           "generation_config.json", "modeling_longgen.py"}) {
    EXPECT_TRUE(fs::exists(folder_ / "out" / file)) << file;
  }

  // A second time it is refused, and with --force replaced, from itself.
  const auto again = longgen(convert);
  EXPECT_EQ(again.code, 1);
  EXPECT_THAT(again.err, HasSubstr("--force"));
  const auto forced = longgen({"convert", path("out"), "-o", path("out"), "--force", "--hybrid",
                               "full=middle:30 sparse=sink-window"});
  EXPECT_EQ(forced.code, 0) << forced.err;
  EXPECT_FALSE(fs::exists(folder_ / "out" / "modeling_longgen.py"));
  const auto inspected = longgen({"inspect", path("out"), "--json"});
  ASSERT_EQ(inspected.code, 0) << inspected.err;
  EXPECT_EQ(json::parse(inspected.out)["hybrid"], false);
  EXPECT_EQ(json::parse(inspected.out)["parameters"], 134515008);
}

// Whenever Ctrl-C comes, the output is there whole or not at all.
TEST_F(ConvertProgram, InterruptLeavesNothingHalfWritten) {
  const std::string model = real_model();
  ASSERT_TRUE(!model.empty() || !data_required()) << "LONGGEN_TEST_MODEL must name the model";
  if (model.empty()) GTEST_SKIP() << "LONGGEN_TEST_MODEL does not name SmolLM2's GGUF file";
  bool seen_staging = false;
  const auto result = longgen({"convert", model, "-o", path("out")}, [&](pid_t pid) {
    // Waits for the folder that is being written, then interrupts.
    for (int i = 0; i < 2000 && !seen_staging; ++i) {
      for (const std::string& name : names()) seen_staging |= name.starts_with(".out.tmp-");
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    kill(pid, SIGINT);
  });
  ASSERT_TRUE(seen_staging) << result.err;
  if (result.code == 0) {  // it was done before the signal came
    EXPECT_TRUE(fs::exists(folder_ / "out" / "config.json"));
  } else {
    EXPECT_EQ(result.code, 130) << result.err;
    EXPECT_THAT(result.err, HasSubstr("interrupted"));
    EXPECT_FALSE(fs::exists(folder_ / "out"));
  }
  for (const std::string& name : names()) EXPECT_FALSE(name.starts_with(".out.tmp-")) << name;
}

}  // namespace
}  // namespace longgen
