#include "longgen/cli/bench_common.h"

#include <unistd.h>

#include <cstdio>

#include "longgen/backend/cpu/cpu_features.h"
#include "longgen/base/error.h"
#include "longgen/base/terminal.h"
#include "longgen/base/thread_pool.h"
#include "longgen/base/units.h"

namespace longgen::cli {
namespace {

using Json = nlohmann::json;

constexpr double kTera = 1e12, kGiga = 1e9;
// A row's name and its figures stand side by side, or on a terminal without the room below each
// other.
constexpr int kNameWidth = 44, kFiguresWidth = 78;

std::string named(const std::string& name, const std::string& numbers) {
  const int columns = terminal_columns(STDOUT_FILENO);
  const bool narrow = columns > 0 && columns < kNameWidth + kFiguresWidth;
  return narrow ? fmt::format("{}{}{}", name, name.empty() ? "" : "\n", numbers)
                : fmt::format("{:<{}}{}", name, kNameWidth, numbers);
}

template <typename... Texts>
std::string figures(const Texts&... texts) {
  return fmt::format(" {:>5} {:>10} {:>7} {:>9} {:>8} {:>7} {:>7} {:>7} {:>9}", texts...);
}

int thread_count(const CommonOptions& common) {
  return common.threads > 0 ? common.threads : ThreadPool::hardware_threads();
}

std::string milliseconds(double seconds) {
  const double ms = 1000 * seconds;
  return fmt::format("{:.{}f} ms", ms, ms < 10 ? 3 : ms < 1000 ? 1 : 0);
}

// Empty where there is nothing to say.
std::string share(double rate, double peak) {
  return rate > 0 && peak > 0 ? fmt::format("{:.1f} %", 100 * rate / peak) : "";
}

std::string rate(double per_second, double unit, int digits) {
  return per_second > 0 ? fmt::format("{:.{}f}", per_second / unit, digits) : "";
}

void print_peak(const bench::ArithmeticPeak& peak) {
  fmt::print("peak {:<18} {:>8.3f} T{}/s ({})\n", peak.name, peak.flops / kTera,
             peak.numbers == "int8" ? "OP" : "FLOP", peak.numbers);
}

Json machine_json(const Backend& backend, const bench::Peaks& peaks, int threads) {
  Json json = {{"machine", backend.description()}, {"threads", threads}};
  for (const bench::ArithmeticPeak& peak : peaks.arithmetic) {
    json["peaks"].push_back(
        {{"name", peak.name}, {"numbers", peak.numbers}, {"tflops", peak.flops / kTera}});
  }
  if (peaks.read_bytes > 0) json["read_gb_per_second"] = peaks.read_bytes / kGiga;
  return json;
}

// What products of the row's numbers do at most.
double peak_of(const bench::Measurement& m, const bench::Peaks& peaks) {
  return m.peak_flops > 0 ? m.peak_flops : peaks.flops(m.dtype);
}

Json row_json(const bench::Measurement& m, const bench::Peaks& peaks) {
  Json json = m.parameters;
  json["name"] = m.name;
  json["dtype"] = dtype_name(m.dtype);
  json["seconds"] = {{"median", m.timing.median()},
                     {"best", m.timing.best()},
                     {"spread", m.timing.spread()},
                     {"repeats", m.timing.seconds.size()}};
  if (m.tokens > 0) json["tokens_per_second"] = m.per_second(m.tokens);
  if (m.flops > 0) {
    json["tflops"] = m.per_second(m.flops) / kTera;
    if (const double peak = peak_of(m, peaks); peak > 0) {
      json["share_of_peak"] = m.per_second(m.flops) / peak;
    }
    if (m.peak_flops > 0) json["peak_in_turn_tflops"] = m.peak_flops / kTera;
  }
  if (m.bytes > 0) {
    json["gb_per_second"] = m.per_second(m.bytes) / kGiga;
    if (peaks.read_bytes > 0) json["share_of_read"] = m.per_second(m.bytes) / peaks.read_bytes;
  }
  if (m.resident_bytes > 0) json["resident_bytes"] = m.resident_bytes;
  if (!m.breakdown.is_null()) json["breakdown"] = m.breakdown;
  return json;
}

}  // namespace

void BenchOptions::add_to(CLI::App& app) {
  app.add_option("--repeats", repeats.most, "Repeat at most this often")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000000));
  app.add_option("--seconds", repeats.seconds, "Stop repeating after this long")
      ->capture_default_str()
      ->check([](const std::string& text) {
        return text.starts_with('-') ? "give seconds, 0 or more, not " + text : std::string();
      });
  app.add_flag("--no-peak", no_peak, "Do not measure the machine's peaks");
  app.add_flag("--breakdown", breakdown, "Show where the time goes, operation by operation");
}

CLI::Option* add_lengths_option(CLI::App& app, const std::string& flags,
                                std::vector<int64_t>& values, const std::string& description) {
  return app
      .add_option_function<std::vector<std::string>>(
          flags,
          [&values](const std::vector<std::string>& texts) {
            values.clear();
            for (const std::string& text : texts) values.push_back(parse_length(text));
          },
          description)
      ->delimiter(',')
      ->type_name("LENGTH");
}

DType bench_dtype(const CommonOptions& common, const Backend& backend) {
  return dtype_or(common, backend.preferred_dtype());
}

BenchReport::BenchReport(const CommonOptions& common, const BenchOptions& options)
    : common_(common) {
  backend_ = make_backend(common);  // first: it refuses what is not there
  if (options.breakdown) profile_ = make_profiling_backend(*backend_);
  if (!options.no_peak && backend_->memory().device() != Device::kHost) {
    peaks_ = bench::measure_device_peaks(*backend_);
  } else if (!options.no_peak) {
    ThreadPool pool(thread_count(common));
    peaks_ = bench::measure_peaks(pool, resolve_cpu_isa(CpuIsa::kAuto));
  }
  print_machine();
}

void BenchReport::print_machine() const {
  if (common_.json) {
    fmt::print("{}\n", machine_json(*backend_, peaks_, thread_count(common_)).dump());
    std::fflush(stdout);
    return;
  }
  fmt::print("{}\n", backend_->description());
  for (const bench::ArithmeticPeak& peak : peaks_.arithmetic) {
    print_peak(peak);
  }
  if (peaks_.read_bytes > 0) {
    fmt::print("peak {:<18} {:>8.1f} GB/s\n", peaks_.read_name, peaks_.read_bytes / kGiga);
  }
}

void BenchReport::print_header() {
  header_printed_ = true;
  fmt::print("\n{}\n", named("", figures("dtype", "median", "spread", "tokens/s", "TFLOP/s",
                                         "of peak", "GB/s", "of read", "resident")));
}

void BenchReport::row(const bench::Measurement& m) {
  if (common_.json) {
    fmt::print("{}\n", row_json(m, peaks_).dump());
    std::fflush(stdout);
    return;
  }
  if (!header_printed_) print_header();
  const double flops = m.per_second(m.flops), bytes = m.per_second(m.bytes);
  fmt::print("{}\n",
             named(m.name, figures(dtype_name(m.dtype), milliseconds(m.timing.median()),
                                   fmt::format("{:.1f} %", 100 * m.timing.spread()),
                                   rate(m.per_second(m.tokens), 1, 1), rate(flops, kTera, 3),
                                   share(flops, peak_of(m, peaks_)), rate(bytes, kGiga, 1),
                                   share(bytes, peaks_.read_bytes),
                                   m.resident_bytes > 0 ? format_bytes(m.resident_bytes) : "")));
  if (!m.breakdown_table.empty()) fmt::print("\n{}\n", m.breakdown_table);
  std::fflush(stdout);
}

void BenchReport::finish() {
  if (peaks_.arithmetic.empty() || backend_->memory().device() == Device::kHost) return;
  const bench::ArithmeticPeak peak = bench::measure_sustained_product(*backend_);
  if (common_.json) {
    fmt::print(
        "{}\n",
        Json({{"name", peak.name}, {"numbers", peak.numbers}, {"tflops", peak.flops / kTera}})
            .dump());
  } else {
    print_peak(peak);
  }
  std::fflush(stdout);
}

}  // namespace longgen::cli
