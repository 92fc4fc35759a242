#include "longgen/cli/version.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/ranges.h>
#include <pcre2.h>
#include <toml++/toml.h>
#include <utf8proc.h>
#include <xxhash.h>

#include <CLI/CLI.hpp>
#include <array>
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

#include "longgen/backend/backend.h"
#include "longgen/backend/cpu/cpu_features.h"
#include "longgen/backend/device_list.h"
#include "longgen/base/error.h"
#include "longgen/base/log.h"
#include "longgen/base/system.h"
#include "longgen/base/thread_pool.h"
#include "longgen/base/units.h"
#include "longgen_commit.h"

namespace longgen::cli {
namespace {

std::string compiler() {
#if defined(__clang__)
  return fmt::format("clang {}.{}.{}", __clang_major__, __clang_minor__, __clang_patchlevel__);
#else
  return fmt::format("gcc {}.{}.{}", __GNUC__, __GNUC_MINOR__, __GNUC_PATCHLEVEL__);
#endif
}

std::string isa_names(std::span<const CpuIsa> isas) {
  std::vector<std::string_view> names;
  for (const CpuIsa isa : isas) names.push_back(cpu_isa_name(isa));
  return fmt::format("{}", fmt::join(names, ", "));
}

// LONGGEN_CPU may name one that is not here: that is for the commands to refuse.
std::string isa_in_use() {
  try {
    return std::string(cpu_isa_name(resolve_cpu_isa(CpuIsa::kAuto)));
  } catch (const Error& error) {
    return fmt::format("none ({})", error.what());
  }
}

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown processor";
}

std::string pcre2_release() {
  std::array<char, 64> text{};
  pcre2_config(PCRE2_CONFIG_VERSION, text.data());
  const std::string whole = text.data();
  return whole.substr(0, whole.find(' '));
}

std::string libraries() {
  const unsigned xxhash = XXH_versionNumber();
  return fmt::format(
      "CLI11 {}, fmt {}.{}.{}, spdlog {}.{}.{}, nlohmann-json {}.{}.{}, toml++ {}.{}.{}, "
      "sentencepiece {}, PCRE2 {}, utf8proc {}, xxHash {}.{}.{}",
      CLI11_VERSION, FMT_VERSION / 10000, FMT_VERSION / 100 % 100, FMT_VERSION % 100,
      SPDLOG_VER_MAJOR, SPDLOG_VER_MINOR, SPDLOG_VER_PATCH, NLOHMANN_JSON_VERSION_MAJOR,
      NLOHMANN_JSON_VERSION_MINOR, NLOHMANN_JSON_VERSION_PATCH, TOML_LIB_MAJOR, TOML_LIB_MINOR,
      TOML_LIB_PATCH, LONGGEN_SENTENCEPIECE_VERSION, pcre2_release(), utf8proc_version(),
      xxhash / 10000, xxhash / 100 % 100, xxhash % 100);
}

}  // namespace

std::string version_line() {
  return fmt::format("longgen {} (commit {})", LONGGEN_VERSION, LONGGEN_COMMIT);
}

std::string version_text() {
  constexpr std::array kCompiled = {CpuIsa::kPortable, CpuIsa::kAvx2, CpuIsa::kAvx512,
                                    CpuIsa::kAvx512Bf16, CpuIsa::kAmx};
  const std::vector<CpuIsa> here = available_cpu_isas();
  std::string text = version_line() + "\n";
  text += fmt::format("compiler          {}, {}\n", compiler(), LONGGEN_BUILD_TYPE);
  text += fmt::format("instruction sets  compiled {}; here {}; in use {}\n", isa_names(kCompiled),
                      isa_names(here), isa_in_use());
  text += fmt::format("device cpu        {}, {} threads, {} of memory free\n", processor_name(),
                      ThreadPool::hardware_threads(), format_bytes(available_memory_bytes()));
  text += fmt::format("device cuda       {}\n", cuda_devices());
  text += fmt::format("libraries         {}", libraries());
  return text;
}

}  // namespace longgen::cli
