// Options that every subcommand has, and what is built from them.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "longgen/backend/backend.h"
#include "longgen/infer/sampler.h"

namespace longgen::cli {

// 128 + SIGINT: stopped by Ctrl-C or SIGTERM, in order.
inline constexpr int kExitInterrupted = 130;

// The --dtype of weights that stay as a GGUF file stores them.
inline constexpr std::string_view kQuantizedDtype = "quantized";

struct CommonOptions {
  std::string device = "cpu";
  std::string dtype;  // "", "f32", "bf16" or kQuantizedDtype
  int threads = 0;    // 0: all
  uint64_t seed = 0;
  bool json = false;
  int verbosity = 0;  // -1 under -q
};

// Adds --device, --dtype, --threads, --seed, --json, -v, -q.
void add_common_options(CLI::App& app, CommonOptions& options);

// The backend that --device and --threads name. Throws UsageError for a device that this build or
// machine does not have.
std::unique_ptr<Backend> make_backend(const CommonOptions& options);

// --dtype when given, else `fallback`. Throws UsageError for kQuantizedDtype: only ModelLoader
// knows it.
DType dtype_or(const CommonOptions& options, DType fallback);

// Adds --temperature, --top-k, --top-p, --min-p; the seed is a common option.
void add_sampling_options(CLI::App& app, infer::SamplingParams& sampling);

// A length option that reads 4096, 128K, 4M.
CLI::Option* add_length_option(CLI::App& app, const std::string& flags, int64_t& value,
                               const std::string& description);
CLI::Option* add_length_option(CLI::App& app, const std::string& flags,
                               std::optional<int64_t>& value, const std::string& description);

// 'text' for any shell; `escaped` characters get a backslash.
std::string shell_quoted(std::string_view text, std::string_view escaped = "");
// The text as one word of a shell's command line, in quotes where it needs them.
std::string shell_word(std::string_view text);

}  // namespace longgen::cli
