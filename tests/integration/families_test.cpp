// Every family through the program: a tiny model extended for two steps, as a hybrid, then used.
#include <gmock/gmock.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/testing/program_test.h"

namespace longgen {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::HasSubstr;

json read_json(const fs::path& path) { return json::parse(std::ifstream(path)); }

// A copy of a safetensors file in which everything that had `from` rows has `to`: rows repeat.
void resize_vocabulary(const fs::path& source, const fs::path& target, size_t from, size_t to) {
  const std::string bytes = read_text_file(source);
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof(length));
  json header = json::parse(bytes.substr(8, length));
  header.erase("__metadata__");
  std::string data;
  for (auto& [name, entry] : header.items()) {
    const size_t begin = entry["data_offsets"][0], end = entry["data_offsets"][1];
    std::string values = bytes.substr(8 + length + begin, end - begin);
    if (entry["shape"][0] == from) {
      const size_t row = values.size() / from;
      for (size_t i = from; i < to; ++i) values += values.substr((i - from) * row, row);
      entry["shape"][0] = to;
    }
    entry["data_offsets"] = {data.size(), data.size() + values.size()};
    data += values;
  }
  const std::string text = header.dump();
  length = text.size();
  std::ofstream out(target, std::ios::binary);
  out.write(reinterpret_cast<const char*>(&length), sizeof(length));
  out << text << data;
}

class FamiliesProgram : public testing::ProgramTest {
 protected:
  FamiliesProgram() {
    std::string text;
    for (int i = 0; i < 200; ++i) text += "line " + std::to_string(i * i) + " of the text\n";
    std::ofstream(folder_ / "text.txt") << text;
  }

  // A model of the family with the byte tokenizer of `base`.
  void make_model(const fs::path& family, const fs::path& base, const fs::path& model) const {
    fs::create_directories(model);
    for (const auto& entry : fs::directory_iterator(base)) {
      if (entry.path().filename().string().starts_with("tokenizer")) {
        fs::copy_file(entry.path(), model / entry.path().filename());
      }
    }
    const size_t vocabulary = read_json(base / "config.json")["vocab_size"];
    json config = read_json(family / "config.json");
    resize_vocabulary(family / "model.safetensors", model / "model.safetensors",
                      config["vocab_size"], vocabulary);
    config["vocab_size"] = vocabulary;
    std::ofstream(model / "config.json") << config;
  }
};

TEST_F(FamiliesProgram, EveryFamilyIsExtendedAsAHybridAndScored) {
  const auto made =
      longgen({"train", "--data.paths", path("text.txt"), "--output", path("base"),
               "--model.hidden_size", "32", "--model.num_layers", "1", "--model.num_heads", "2",
               "--train.length", "64", "--train.steps", "1", "--train.batch_tokens", "64"});
  ASSERT_EQ(made.code, 0) << made.err;
  size_t families = 0;
  for (const auto& entry :
       fs::directory_iterator(fs::path(LONGGEN_SOURCE_DIR) / "tests/golden/families")) {
    const std::string name = entry.path().filename().string();
    SCOPED_TRACE(name);
    ++families;
    make_model(entry.path(), folder_ / "base", folder_ / name);
    const std::string out = path(name + "-out");
    const auto extended =
        longgen({"extend", path(name), "--data", path("text.txt"), "-o", out, "--length",
                 name == "opt" ? "128" : "256", "--hybrid", "full=1 sparse=local:2,sink:1,block:16",
                 "--train.steps", "2", "--train.batch_tokens", "256", "--dtype", "f32"});
    ASSERT_EQ(extended.code, 0) << extended.err;
    const auto inspected = longgen({"inspect", out, "--json"});
    ASSERT_EQ(inspected.code, 0) << inspected.err;
    const json figures = json::parse(inspected.out);
    EXPECT_EQ(figures["hybrid"], true);
    EXPECT_EQ(figures["family"], read_json(entry.path() / "config.json")["model_type"]);
    EXPECT_EQ(figures["max_position_embeddings"], name == "opt" ? 128 : 256);
    const auto scored = longgen({"score", out, "--text", path("text.txt"), "--max-tokens", "128",
                                 "--dtype", "f32", "--json"});
    EXPECT_EQ(scored.code, 0) << scored.err;
  }
  EXPECT_EQ(families, 8u);
}

// Mistral 7B v0.1 and Phi-3-mini 4K have windows of their own.
TEST_F(FamiliesProgram, AWindowOfTheModelsOwnIsItsLimitUntilItIsExtended) {
  const fs::path family = fs::path(LONGGEN_SOURCE_DIR) / "tests/golden/families/mistral";
  const auto made =
      longgen({"train", "--data.paths", path("text.txt"), "--output", path("base"),
               "--model.hidden_size", "32", "--model.num_layers", "1", "--model.num_heads", "2",
               "--train.length", "64", "--train.steps", "1", "--train.batch_tokens", "64"});
  ASSERT_EQ(made.code, 0) << made.err;
  make_model(family, folder_ / "base", folder_ / "model");
  json config = read_json(folder_ / "model" / "config.json");
  config["sliding_window"] = 64;
  std::ofstream(folder_ / "model" / "config.json") << config;

  const std::string model = path("model"), text = path("text.txt");
  const auto inspected = longgen({"inspect", model});
  EXPECT_EQ(inspected.code, 0) << inspected.err;
  EXPECT_THAT(inspected.out, HasSubstr("sliding window of 64"));
  EXPECT_EQ(longgen({"score", model, "--text", text, "--max-tokens", "64"}).code, 0);
  const auto beyond = longgen({"score", model, "--text", text, "--max-tokens", "65"});
  EXPECT_EQ(beyond.code, 1);
  EXPECT_THAT(beyond.err, HasSubstr("trained with a sliding window"));
  const auto claimed = longgen({"convert", model, "-o", path("claimed"), "--max-position", "128"});
  EXPECT_EQ(claimed.code, 1);
  EXPECT_THAT(claimed.err, HasSubstr("trained with a sliding window"));
  const auto extended = longgen({"extend", model, "--data", text, "-o", path("out"), "--length",
                                 "128", "--train.steps", "1", "--train.batch_tokens", "128"});
  ASSERT_EQ(extended.code, 0) << extended.err;
  EXPECT_EQ(longgen({"score", path("out"), "--text", text, "--max-tokens", "128"}).code, 0);
}

}  // namespace
}  // namespace longgen
