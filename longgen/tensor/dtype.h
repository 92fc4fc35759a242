// Element types.
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>

namespace longgen {

enum class DType : uint8_t { kF64, kF32, kF16, kBF16, kI64, kI32, kU8 };

// bytes of one element
int64_t dtype_size(DType dtype);
// "f32", "bf16", ...
std::string_view dtype_name(DType dtype);
// The inverse of dtype_name. Throws UsageError.
DType parse_dtype(std::string_view name);
// Sums of values of this type are kept in: f64 for f64, else f32.
DType accumulation_dtype(DType dtype);

// bfloat16: the upper half of an f32.
struct bf16 {
  uint16_t bits;

  bf16() = default;
  // Round to nearest even; NaN stays NaN.
  explicit bf16(float value) {
    const uint32_t u = std::bit_cast<uint32_t>(value);
    bits = (u & 0x7fffffffu) > 0x7f800000u
               ? static_cast<uint16_t>((u >> 16) | 0x40u)
               : static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  explicit operator float() const {
    return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  }
  explicit operator double() const { return static_cast<float>(*this); }
};

// IEEE binary16, only read from and written to files.
struct f16 {
  uint16_t bits;
};
float f16_to_float(f16 value);
f16 float_to_f16(float value);  // round to nearest even

template <typename T>
struct DTypeOf;
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::kF64;
};
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::kF32;
};
template <>
struct DTypeOf<bf16> {
  static constexpr DType value = DType::kBF16;
};
template <>
struct DTypeOf<f16> {
  static constexpr DType value = DType::kF16;
};
template <>
struct DTypeOf<int64_t> {
  static constexpr DType value = DType::kI64;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::kI32;
};
template <>
struct DTypeOf<uint8_t> {
  static constexpr DType value = DType::kU8;
};

}  // namespace longgen
