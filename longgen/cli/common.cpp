#include "longgen/cli/common.h"

#include <algorithm>
#include <cctype>
#include <charconv>

#include "longgen/base/error.h"
#include "longgen/base/units.h"

namespace longgen::cli {

namespace {

// Nothing negative, which would wrap, and nothing beyond 64 bits.
std::string check_seed(const std::string& text) {
  uint64_t seed = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seed);
  if (error == std::errc() && end == text.data() + text.size()) return "";
  return "a seed is a whole number from 0 to 2^64 - 1, not \"" + text + "\"";
}

}  // namespace

void add_common_options(CLI::App& app, CommonOptions& options) {
  app.add_option("--device", options.device, "Where to run: cpu, cuda or cuda:N (a Hopper GPU)")
      ->capture_default_str()
      ->group("Common");
  app.add_option("--dtype", options.dtype,
                 "f32 or bf16 (what suits command and device); quantized: weights as a GGUF stores "
                 "them, which generate, chat and score take unasked on a CPU")
      ->group("Common");
  app.add_option("--threads", options.threads, "Threads; 0 takes all")
      ->capture_default_str()
      ->check(CLI::Range(0, 4096))
      ->group("Common");
  app.add_option("--seed", options.seed, "Seed of everything random")
      ->capture_default_str()
      ->check(check_seed)
      ->group("Common");
  app.add_flag("--json", options.json, "Print JSON to stdout")->group("Common");
  app.add_flag_callback(
         "-v,--verbose", [&options] { options.verbosity = 1; }, "Say more")
      ->group("Common");
  app.add_flag_callback(
         "-q,--quiet", [&options] { options.verbosity = -1; }, "Warnings and errors only")
      ->group("Common");
}

std::unique_ptr<Backend> make_backend(const CommonOptions& options) {
  if (options.device == "cpu") return make_cpu_backend(options.threads);
  if (options.device == "cuda") return make_cuda_backend(0);
  if (options.device.starts_with("cuda:")) {
    const std::string number = options.device.substr(5);
    int device = -1;
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), device);
    if (error == std::errc() && end == number.data() + number.size() && device >= 0) {
      return make_cuda_backend(device);
    }
  }
  fail_usage("unknown device \"{}\"; use cpu, cuda or cuda:N", options.device);
}

void add_sampling_options(CLI::App& app, infer::SamplingParams& sampling) {
  app.add_option("--temperature", sampling.temperature, "0 is greedy")->capture_default_str();
  app.add_option("--top-k", sampling.top_k, "Keep the k most likely; 0 is off")
      ->capture_default_str();
  app.add_option("--top-p", sampling.top_p, "Keep the most likely up to this probability")
      ->capture_default_str();
  app.add_option("--min-p", sampling.min_p, "Drop what is less likely than this share of the best")
      ->capture_default_str();
}

DType dtype_or(const CommonOptions& options, DType fallback) {
  if (options.dtype.empty()) return fallback;
  if (options.dtype == kQuantizedDtype) {
    fail_usage("--dtype {}: this command needs numbers; use f32 or bf16", options.dtype);
  }
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    if (options.dtype == dtype_name(dtype)) return dtype;
  }
  fail_usage("--dtype {}: use f32 or bf16 (generate, chat and score also take {})", options.dtype,
             kQuantizedDtype);
}

namespace {

template <typename Value>
CLI::Option* add_length(CLI::App& app, const std::string& flags, Value& value,
                        const std::string& description) {
  return app
      .add_option_function<std::string>(
          flags, [&value](const std::string& text) { value = parse_length(text); }, description)
      ->type_name("LENGTH");
}

}  // namespace

CLI::Option* add_length_option(CLI::App& app, const std::string& flags, int64_t& value,
                               const std::string& description) {
  return add_length(app, flags, value, description);
}

CLI::Option* add_length_option(CLI::App& app, const std::string& flags,
                               std::optional<int64_t>& value, const std::string& description) {
  return add_length(app, flags, value, description);
}

std::string shell_quoted(std::string_view text, std::string_view escaped) {
  std::string result = "'";
  for (const char c : text) {
    if (c == '\'') {
      result += "'\\''";
    } else {
      if (escaped.find(c) != std::string_view::npos) result += '\\';
      result += c;
    }
  }
  return result + "'";
}

std::string shell_word(std::string_view text) {
  const auto plain = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 ||
           std::string_view("_./:=,+-@%").find(c) != std::string_view::npos;
  };
  if (!text.empty() && std::all_of(text.begin(), text.end(), plain)) return std::string(text);
  return shell_quoted(text);
}

}  // namespace longgen::cli
