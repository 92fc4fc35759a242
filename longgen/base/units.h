// Lengths and sizes as people write and read them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace longgen {

// "4096", "128K", "4M": K = 1024, M = 1024^2, G = 1024^3. Throws UsageError on anything else,
// on negative values and on overflow.
int64_t parse_length(std::string_view text);

// 131072 -> "128K"; values that are no whole multiple stay plain digits.
std::string format_length(int64_t value);

// Decimal units: 26461863936 -> "26.46 GB"; below 1 MB in kB, below 1 kB in B.
std::string format_bytes(int64_t bytes);

// 83 s -> "1:23", 4000 s -> "1:06:40".
std::string format_duration(double seconds);

// 12345678 -> "12.3M"; for rates and FLOP/s: three significant digits, decimal prefixes.
std::string format_si(double value);

}  // namespace longgen
