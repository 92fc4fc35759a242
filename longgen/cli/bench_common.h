// What the commands of `longgen bench` share: repeats, the machine's peaks, and the table.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bench/measurement.h"
#include "bench/peaks.h"
#include "longgen/backend/profile/profile.h"
#include "longgen/cli/command.h"

namespace longgen::cli {

struct BenchOptions {
  bench::Repeats repeats;
  bool no_peak = false, breakdown = false;

  void add_to(CLI::App& app);
};

// A list of lengths: "2K,8K" or "2K 8K".
CLI::Option* add_lengths_option(CLI::App& app, const std::string& flags,
                                std::vector<int64_t>& values, const std::string& description);

// The dtype that is measured when --dtype is not given: what commands would take.
DType bench_dtype(const CommonOptions& common, const Backend& backend);

// Measures the peaks first, then prints every row as it comes: a table, or under --json one object
// a line, the machine's first.
class BenchReport {
 public:
  BenchReport(const CommonOptions& common, const BenchOptions& options);

  // Under --breakdown it keeps the time of every operation.
  Backend& backend() { return profile_ ? *profile_ : *backend_; }
  void row(const bench::Measurement& measurement);
  // After the last row, where a device's peaks were measured: the product again, at the clocks
  // that the device holds under load.
  void finish();

 private:
  void print_machine() const;
  void print_header();

  const CommonOptions& common_;
  bench::Peaks peaks_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<ProfilingBackend> profile_;
  bool header_printed_ = false;
};

std::unique_ptr<Command> make_bench_attention_command();
std::unique_ptr<Command> make_bench_gemm_command();
std::unique_ptr<Command> make_bench_prefill_command();
std::unique_ptr<Command> make_bench_decode_command();
std::unique_ptr<Command> make_bench_train_command();

}  // namespace longgen::cli
