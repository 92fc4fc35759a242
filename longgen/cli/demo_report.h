// What the demo measured, and the marks that it is held to.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace longgen::cli {

struct DemoNeedles {
  int64_t length = 0;
  double all = 0;             // share found
  int64_t outside_count = 0;  // needles outside the hybrid's sparse window and sinks
  double outside = 0;         // share of those found
};

struct DemoModelReport {
  std::string name;
  std::vector<DemoNeedles> needles;
  double short_loss = 0;               // nats a token
  int64_t kv_bytes = 0;                // of one sequence at the longest length
  double train_tokens_per_second = 0;  // 0: was not trained
};

struct DemoReport {
  DemoModelReport before, hybrid, twin;

  struct Mark {
    std::string text;
    bool passed;
  };
  // Before: at most 10 % found beyond 512. After, at every length, of all and of those outside: at
  // least 90 %. Short-text loss at most 2 % worse.
  std::vector<Mark> marks() const;
  bool passed() const;
};

// From results.json of `longgen eval`, config.json of the model and metrics.jsonl of `longgen
// extend` (none when empty). Throws Error naming the file when something is missing.
DemoModelReport read_demo_model_report(const std::string& name, const std::filesystem::path& model,
                                       const std::filesystem::path& results,
                                       const std::filesystem::path& metrics);

std::string to_table(const DemoReport& report);

}  // namespace longgen::cli
