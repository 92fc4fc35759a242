#include "longgen/base/units.h"

#include <array>
#include <charconv>
#include <cmath>

#include "longgen/base/error.h"

namespace longgen {

namespace {

// More tokens than any text has, few enough that bytes of keys and values can be counted.
constexpr int64_t kMaxLength = int64_t{1} << 44;

}  // namespace

int64_t parse_length(std::string_view text) {
  std::string_view digits = text;
  int shift = 0;
  if (!digits.empty()) {
    switch (digits.back()) {
      case 'k':
      case 'K':
        shift = 10;
        break;
      case 'm':
      case 'M':
        shift = 20;
        break;
      case 'g':
      case 'G':
        shift = 30;
        break;
      default:
        break;
    }
    if (shift != 0) digits.remove_suffix(1);
  }
  int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || end != digits.data() + digits.size() || value < 0 ||
      value > (kMaxLength >> shift)) {
    fail_usage("\"{}\" is no length; write 4096, 128K or 4M (K = 1024), at most {}", text,
               format_length(kMaxLength));
  }
  return value << shift;
}

std::string format_length(int64_t value) {
  if (value == 0) return "0";
  if (value % (int64_t{1} << 30) == 0) return fmt::format("{}G", value >> 30);
  if (value % (int64_t{1} << 20) == 0) return fmt::format("{}M", value >> 20);
  if (value % (int64_t{1} << 10) == 0) return fmt::format("{}K", value >> 10);
  return std::to_string(value);
}

std::string format_bytes(int64_t bytes) {
  const double b = static_cast<double>(bytes);
  if (b >= 1e12) return fmt::format("{:.2f} TB", b / 1e12);
  if (b >= 1e9) return fmt::format("{:.2f} GB", b / 1e9);
  if (b >= 1e6) return fmt::format("{:.2f} MB", b / 1e6);
  if (b >= 1e3) return fmt::format("{:.1f} kB", b / 1e3);
  return fmt::format("{} B", bytes);
}

std::string format_duration(double seconds) {
  const auto total = static_cast<int64_t>(std::llround(std::fmax(seconds, 0)));
  if (total >= 3600) {
    return fmt::format("{}:{:02}:{:02}", total / 3600, total / 60 % 60, total % 60);
  }
  return fmt::format("{}:{:02}", total / 60, total % 60);
}

std::string format_si(double value) {
  static constexpr std::array<const char*, 6> kPrefixes = {"", "k", "M", "G", "T", "P"};
  size_t prefix = 0;
  while (std::fabs(value) >= 999.5 && prefix + 1 < kPrefixes.size()) {
    value /= 1000;
    ++prefix;
  }
  const int decimals = std::fabs(value) >= 99.95 ? 0 : std::fabs(value) >= 9.995 ? 1 : 2;
  return fmt::format("{:.{}f}{}", value, decimals, kPrefixes[prefix]);
}

}  // namespace longgen
