// Every kind of `longgen bench`, briefly. What a machine's load decides is never asserted; what is
// counted, and how a row hangs together, is.
#include <gmock/gmock.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/testing/program_test.h"

namespace longgen {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using Json = nlohmann::json;

class Bench : public testing::ProgramTest {
 protected:
  testing::ProgramResult bench(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), "bench");
    return longgen(arguments);
  }

  // The rows behind the machine's line.
  std::vector<Json> rows(std::vector<std::string> arguments) {
    for (const char* each : {"--json", "--seconds", "0.02", "--threads", "2"}) {
      arguments.emplace_back(each);
    }
    const auto result = bench(arguments);
    EXPECT_EQ(result.code, 0) << result.err;
    std::vector<Json> all;
    std::istringstream lines(result.out);
    for (std::string line; std::getline(lines, line);) all.push_back(Json::parse(line));
    if (all.empty()) return {};
    machine_ = all.front();
    all.erase(all.begin());
    for (const Json& row : all) {
      EXPECT_GT(row["seconds"]["median"].get<double>(), 0) << row;
      EXPECT_LE(row["seconds"]["best"], row["seconds"]["median"]) << row;
      EXPECT_GE(row["seconds"]["repeats"].get<int>(), 1) << row;
    }
    return all;
  }

  Json machine_;
};

TEST_F(Bench, AttentionInEveryDirection) {
  const auto all =
      rows({"attention", "--heads", "4:2", "--head-dim", "32", "--lengths", "256,512", "--pattern",
            "full", "sink-window", "--direction", "forward", "backward", "decode"});
  ASSERT_EQ(all.size(), 12u);
  for (const Json& row : all) {
    EXPECT_GT(row["tflops"].get<double>(), 0) << row;
    EXPECT_GT(row["share_of_peak"].get<double>(), 0) << row;
  }
  // 4 head_dim FLOPs a pair and head.
  EXPECT_NEAR(all[0]["tflops"].get<double>() * all[0]["seconds"]["median"].get<double>(),
              4 * 32 * 4 * 256 * 257 / 2 / 1e12, 1e-9);
  ASSERT_GE(machine_["peaks"].size(), 1u);
  for (const Json& peak : machine_["peaks"]) EXPECT_GT(peak["tflops"].get<double>(), 0);
}

TEST_F(Bench, PatternsInTurns) {
  const auto all = rows({"attention", "--heads", "2:1", "--head-dim", "32", "--lengths", "1K",
                         "--pattern", "full", "local:2,sink:1", "--in-turns", "--no-peak"});
  ASSERT_EQ(all.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(all[i]["direction"], i < 2 ? "forward" : "backward");
    EXPECT_EQ(all[i]["pattern"], i % 2 == 0 ? "full" : "local:2,sink:1");
    const auto rounds = all[i]["round_seconds"].get<std::vector<double>>();
    EXPECT_GE(rounds.size(), 3u);
    EXPECT_EQ(rounds.size(), all[i / 2 * 2]["round_seconds"].size());
    EXPECT_EQ(*std::min_element(rounds.begin(), rounds.end()), all[i]["seconds"]["best"]);
  }
}

TEST_F(Bench, ProductsOfGivenSizesAndOfAModel) {
  const auto all = rows({"gemm", "--size", "64x96x32", "--shape", "tiny", "--tokens", "128",
                         "--direction", "forward", "dx", "dw", "--no-peak"});
  EXPECT_EQ(all.size(), 3u * (1 + 5));
  EXPECT_FALSE(machine_.contains("peaks"));
}

TEST_F(Bench, ModelsPrefillDecodeAndTrain) {
  const auto prefill = rows({"prefill", "--shape", "tiny", "--lengths", "128,300", "--no-peak",
                             "--hybrid", "full=middle:1 sparse=local:2,sink:1,block:16"});
  ASSERT_EQ(prefill.size(), 2u);
  EXPECT_GT(prefill[1]["tokens_per_second"].get<double>(), 0);
  const auto decode =
      rows({"decode", "--shape", "tiny", "--depths", "0,512", "--steps", "3", "--batch", "2"});
  ASSERT_EQ(decode.size(), 2u);
  EXPECT_EQ(decode[1]["seconds"]["repeats"], 3);
  EXPECT_GT(decode[1]["gb_per_second"].get<double>(), 0);
  const auto train = rows({"train", "--shape", "tiny", "--tokens", "128", "--no-peak"});
  ASSERT_EQ(train.size(), 1u);
  EXPECT_GT(train[0]["resident_bytes"].get<int64_t>(), 0);
}

TEST_F(Bench, AModelFromAFileAndABreakdown) {
  const std::string model = std::string(LONGGEN_SOURCE_DIR) + "/demo/model";
  const auto all =
      rows({"prefill", model, "--lengths", "64", "--no-peak", "--breakdown", "--repeats", "1"});
  ASSERT_EQ(all.size(), 1u);
  double sum = 0;
  bool attention = false;
  for (const Json& entry : all[0]["breakdown"]) {
    sum += entry["seconds"].get<double>();
    attention |= entry["operation"] == "attention_forward";
  }
  EXPECT_TRUE(attention) << all[0];
  // The parts are within the whole, which was timed around them.
  EXPECT_LE(sum, all[0]["seconds"]["median"].get<double>());
}

TEST_F(Bench, ATableForPeople) {
  const auto result = bench({"gemm", "--size", "32x32x32", "--seconds", "0.01", "--threads", "1"});
  EXPECT_EQ(result.code, 0) << result.err;
  for (const char* word : {"peak", "memory read", "median", "TFLOP/s", "32 x 32 x 32 forward"}) {
    EXPECT_THAT(result.out, HasSubstr(word));
  }
}

TEST_F(Bench, WhatCannotBeMeasuredIsRefused) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> usage = {
      {{}, "bench"},
      {{"bogus"}, "unknown command bogus"},
      {{"attention", "--heads", "9"}, "9:3"},
      {{"attention", "--heads", "4:3"}, "4:3"},  // before peaks are measured
      {{"attention", "--direction", "sideways"}, "sideways"},
      {{"attention", "--pattern", "bogus"}, "bogus"},
      {{"attention", "--in-turns", "--direction", "decode"}, "not with decode"},
      {{"attention", "--in-turns", "--breakdown"}, "tell the patterns apart"},
      {{"gemm", "--size", "1x2"}, "2048x1536x576"},
      {{"prefill", "--shape", "gpt-9"}, "smollm2-135m"},
      {{"prefill", "--chunk", "0"}, "chunks of 0"},
      {{"prefill", "--seconds", "-1"}, "give seconds, 0 or more"},
      {{"train", "--memory", "4G", "--recompute", "all"}, "goes with --recompute auto"},
      {{"train", "--keep-outputs", "full", "--recompute", "mlp"}, "all are kept"},
      {{"train", "--mlp-chunk", "0"}, "--mlp-chunk 0"},
      {{"train", "--loss-chunk", "0"}, "--loss-chunk 0"},
      {{"train", "--tokens", "1"}, "at least 2"}};
  for (const auto& [arguments, message] : usage) {
    const auto result = bench(arguments);
    EXPECT_EQ(result.code, 2) << message << result.err;
    EXPECT_THAT(result.err, HasSubstr(message));
  }
  // 1.6 TB of keys and values.
  const auto result = bench({"prefill", "--shape", "tiny", "--lengths", "2G", "--no-peak"});
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.err, HasSubstr("of memory are free"));
}

}  // namespace
}  // namespace longgen
