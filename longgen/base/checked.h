// Integer arithmetic that throws instead of wrapping: for sizes that come from files and flags.
#pragma once

#include <concepts>
#include <cstdint>

#include "longgen/base/error.h"

namespace longgen {

template <std::integral T>
T checked_add(T a, T b) {
  T r;
  if (__builtin_add_overflow(a, b, &r)) fail("integer overflow: {} + {}", a, b);
  return r;
}

template <std::integral T>
T checked_mul(T a, T b) {
  T r;
  if (__builtin_mul_overflow(a, b, &r)) fail("integer overflow: {} * {}", a, b);
  return r;
}

template <std::integral T>
constexpr T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

template <std::integral T>
constexpr T round_up(T a, T multiple) {
  return ceil_div(a, multiple) * multiple;
}

}  // namespace longgen
