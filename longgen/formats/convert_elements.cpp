#include "longgen/formats/convert_elements.h"

#include <cstring>

#include "longgen/base/error.h"

namespace longgen::formats {
namespace {

template <typename T>
T load(const std::byte* source, int64_t i) {
  T value;
  std::memcpy(&value, source + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

// The wider of the two sides decides what the value passes through.
template <typename Wide, typename From>
Wide widen(From value) {
  if constexpr (std::is_same_v<From, f16>) {
    return static_cast<Wide>(f16_to_float(value));
  } else {
    return static_cast<Wide>(value);
  }
}

template <typename To, typename Wide>
To narrow(Wide value) {
  if constexpr (std::is_same_v<To, f16>) {
    return float_to_f16(static_cast<float>(value));
  } else if constexpr (std::is_same_v<To, bf16>) {
    return bf16(static_cast<float>(value));
  } else {
    return static_cast<To>(value);
  }
}

template <typename From, typename To>
void convert(const std::byte* source, void* to_data, int64_t count) {
  constexpr bool kDouble = std::is_same_v<From, double> || std::is_same_v<To, double>;
  using Wide = std::conditional_t<kDouble, double, float>;
  To* to = static_cast<To*>(to_data);
  for (int64_t i = 0; i < count; ++i) to[i] = narrow<To, Wide>(widen<Wide>(load<From>(source, i)));
}

template <typename From>
void convert_from(const std::byte* source, DType to, void* to_data, int64_t count) {
  switch (to) {
    case DType::kF64:
      return convert<From, double>(source, to_data, count);
    case DType::kF32:
      return convert<From, float>(source, to_data, count);
    case DType::kF16:
      return convert<From, f16>(source, to_data, count);
    case DType::kBF16:
      return convert<From, bf16>(source, to_data, count);
    default:
      break;
  }
  fail("cannot convert {} to {}", dtype_name(DTypeOf<From>::value), dtype_name(to));
}

// Whether some element has all its exponent bits set.
template <typename Bits>
bool exponent_full(const void* data, int64_t count, Bits exponent) {
  const std::byte* bytes = static_cast<const std::byte*>(data);
  bool found = false;
  for (int64_t i = 0; i < count; ++i) {
    found |= (load<Bits>(bytes, i) & exponent) == exponent;
  }
  return found;
}

}  // namespace

bool is_floating(DType dtype) {
  return dtype == DType::kF64 || dtype == DType::kF32 || dtype == DType::kF16 ||
         dtype == DType::kBF16;
}

void convert_elements(DType from, const std::byte* source, DType to, void* to_data, int64_t count) {
  if (count == 0) return;
  if (from == to) {
    std::memcpy(to_data, source, static_cast<size_t>(count * dtype_size(from)));
    return;
  }
  switch (from) {
    case DType::kF64:
      return convert_from<double>(source, to, to_data, count);
    case DType::kF32:
      return convert_from<float>(source, to, to_data, count);
    case DType::kF16:
      return convert_from<f16>(source, to, to_data, count);
    case DType::kBF16:
      return convert_from<bf16>(source, to, to_data, count);
    default:
      break;
  }
  fail("cannot convert {} to {}", dtype_name(from), dtype_name(to));
}

bool has_nonfinite(const Tensor& tensor) {
  require(tensor.is_contiguous(), "has_nonfinite needs a contiguous tensor, not {}",
          tensor.shape_string());
  const int64_t count = tensor.numel();
  switch (tensor.dtype()) {
    case DType::kF64:
      return exponent_full<uint64_t>(tensor.raw(), count, 0x7ff0000000000000ull);
    case DType::kF32:
      return exponent_full<uint32_t>(tensor.raw(), count, 0x7f800000u);
    case DType::kF16:
      return exponent_full<uint16_t>(tensor.raw(), count, 0x7c00u);
    case DType::kBF16:
      return exponent_full<uint16_t>(tensor.raw(), count, 0x7f80u);
    default:
      return false;
  }
}

}  // namespace longgen::formats
