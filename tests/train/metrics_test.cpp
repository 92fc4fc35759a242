#include "longgen/train/metrics.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "longgen/base/mapped_file.h"
#include "tests/train/train_testing.h"

namespace longgen::train {
namespace {

nlohmann::json line(const char* kind, int64_t step, double loss) {
  return {{"kind", kind}, {"step", step}, {"loss", loss}};
}

TEST(MetricsLog, ReplacesLinesAfterTheResumedStep) {
  ScratchFolder folder;
  const auto path = folder.path() / "metrics.jsonl";
  {
    MetricsLog log(path, 0);
    log.write(line("eval", 0, 9));
    for (int64_t step = 0; step < 6; ++step) log.write(line("train", step, 0.1 * step));
    log.write(line("eval", 4, 8));
    log.write(line("eval", 6, 7));
  }
  std::ofstream(path, std::ios::app) << "{\"kind\": \"train\", \"ste";  // torn
  {
    MetricsLog log(path, 4);
    EXPECT_TRUE(log.resumed_behind_evaluation());
    log.write(line("train", 4, 5));
    log.sync();
  }
  std::string expected = line("eval", 0, 9).dump() + "\n";
  for (int64_t step = 0; step < 4; ++step)
    expected += line("train", step, 0.1 * step).dump() + "\n";
  expected += line("eval", 4, 8).dump() + "\n" + line("train", 4, 5).dump() + "\n";
  EXPECT_EQ(read_text_file(path), expected);
  EXPECT_FALSE(MetricsLog(path, 3).resumed_behind_evaluation());
  MetricsLog fresh(path, 0);  // a run from the start keeps nothing
  EXPECT_FALSE(fresh.resumed_behind_evaluation());
  EXPECT_EQ(read_text_file(path), "");
}

TEST(MetricsLog, NumbersReadBackBitForBit) {
  ScratchFolder folder;
  const auto path = folder.path() / "metrics.jsonl";
  const double value = 0.1 + 0.2 + 1e-16 / 3;
  MetricsLog(path, 0).write(line("train", 0, value));
  EXPECT_EQ(nlohmann::json::parse(read_text_file(path))["loss"].get<double>(), value);
}

}  // namespace
}  // namespace longgen::train
