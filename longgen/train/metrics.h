// metrics.jsonl: one JSON object a line. {"kind": "train", "step": n, ...} describes the step that
// followed n finished ones; {"kind": "eval", "step": n, ...} the model after n steps. Numbers are
// written so that they read back bit for bit.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>

namespace longgen::train {

class MetricsLog {
 public:
  // Continues the file of a run that resumes after `resumed_step` steps: lines of later steps,
  // which will be run again, and a torn last line are dropped.
  MetricsLog(std::filesystem::path path, int64_t resumed_step);
  ~MetricsLog();
  MetricsLog(const MetricsLog&) = delete;
  MetricsLog& operator=(const MetricsLog&) = delete;

  // Appends; throws Error when the disk is full.
  void write(const nlohmann::json& line);
  // Whether the file that was continued holds the evaluation after `resumed_step` steps.
  bool resumed_behind_evaluation() const { return resumed_behind_evaluation_; }
  // To disk: before a checkpoint that counts on the lines being there.
  void sync();

 private:
  std::filesystem::path path_;
  bool resumed_behind_evaluation_ = false;
  int fd_ = -1;
};

}  // namespace longgen::train
