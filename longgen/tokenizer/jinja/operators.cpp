#include <cmath>

#include "longgen/base/html.h"
#include "longgen/tokenizer/jinja/runtime.h"
#include "longgen/tokenizer/jinja/text.h"

namespace longgen::tokenizer::jinja {
namespace {

[[noreturn]] void fail_operands(std::string_view op, const Value& a, const Value& b) {
  fail_here("unsupported operand type(s) for {}: '{}' and '{}'", op, a.type_name(), b.type_name());
}
[[noreturn]] void fail_overflow() { fail_here("integers beyond 64 bits are not supported"); }

// Rounded towards minus infinity; b is not 0.
int64_t floor_divide(int64_t a, int64_t b) {
  if (a == INT64_MIN && b == -1) fail_overflow();
  const int64_t quotient = a / b;
  return a % b != 0 && (a < 0) != (b < 0) ? quotient - 1 : quotient;
}

int64_t power(int64_t base, int64_t exponent) {
  int64_t result = 1;
  for (; exponent > 0; exponent >>= 1) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) fail_overflow();
    if (exponent > 1 && __builtin_mul_overflow(base, base, &base)) fail_overflow();
  }
  return result;
}

double floor_modulo(double a, double b) {
  double rest = std::fmod(a, b);
  if (rest != 0 && (rest < 0) != (b < 0)) rest += b;
  return rest == 0 ? std::copysign(0.0, b) : rest;
}

Value integer_arithmetic(std::string_view op, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflow = false;
  if (op == "+") {
    overflow = __builtin_add_overflow(a, b, &result);
  } else if (op == "-") {
    overflow = __builtin_sub_overflow(a, b, &result);
  } else if (op == "*") {
    overflow = __builtin_mul_overflow(a, b, &result);
  } else if (op == "**") {
    if (b < 0) {
      if (a == 0) fail_here("zero cannot be raised to a negative power");
      return Value(std::pow(static_cast<double>(a), static_cast<double>(b)));
    }
    result = power(a, b);
  } else {
    if (b == 0) fail_here("division by zero");
    if (op == "/") return Value(static_cast<double>(a) / static_cast<double>(b));
    result = floor_divide(a, b);
    if (op == "%") result = a - result * b;
  }
  if (overflow) fail_overflow();
  return Value(result);
}

Value float_arithmetic(std::string_view op, double a, double b) {
  if (op == "+") return Value(a + b);
  if (op == "-") return Value(a - b);
  if (op == "*") return Value(a * b);
  if (op == "**") return Value(std::pow(a, b));
  if (b == 0) fail_here("float division by zero");
  if (op == "/") return Value(a / b);
  if (op == "//") return Value((a - floor_modulo(a, b)) / b);
  return Value(floor_modulo(a, b));
}

Value add_texts(Runtime& runtime, const Value& a, const Value& b) {
  TextBuilder out(runtime.meter());
  // Text that went through `safe` escapes what it is joined with.
  const bool markup = a.is_markup() || b.is_markup();
  out.add(markup && !a.is_markup() ? escape_html(a.text()) : a.text());
  out.add(markup && !b.is_markup() ? escape_html(b.text()) : b.text());
  return out.finish(markup);
}

bool is_list_or_tuple(const Value& value) {
  if (!value.is<Value::Sequence>()) return false;
  const Flavour flavour = value.sequence().flavour;
  return flavour == Flavour::kList || flavour == Flavour::kTuple;
}

Value repeat(Runtime& runtime, const Value& value, int64_t count) {
  count = std::max<int64_t>(count, 0);
  if (value.is_text()) {
    TextBuilder out(runtime.meter());
    if (value.text().empty()) count = 0;
    for (int64_t i = 0; i < count; ++i) out.add(value.text());
    return out.finish(value.is_markup());
  }
  SequenceBuilder out(runtime.meter());
  if (value.sequence().items.empty()) count = 0;
  for (int64_t i = 0; i < count; ++i) {
    runtime.meter().step();
    for (const Value& item : value.sequence().items) out.add(item);
  }
  return out.finish(value.sequence().flavour);
}

}  // namespace

void fail_undefined(const Value& value) {
  const auto& message = value.get<Undefined>()->message;
  fail_here("{}", message ? *message : "the value is undefined");
}

Value arithmetic(Runtime& runtime, std::string_view op, const Value& a, const Value& b) {
  if (op == "%" && a.is_text()) return format_percent(runtime, a, b);
  if (a.is_undefined()) fail_undefined(a);
  if (b.is_undefined()) fail_undefined(b);
  if (a.is_number() && b.is_number()) {
    if (a.is_integer() && b.is_integer()) return integer_arithmetic(op, a.integer(), b.integer());
    return float_arithmetic(op, a.number(), b.number());
  }
  if (op == "+" && a.is_text() && b.is_text()) return add_texts(runtime, a, b);
  if (op == "+" && is_list_or_tuple(a) && is_list_or_tuple(b) &&
      a.sequence().flavour == b.sequence().flavour) {
    SequenceBuilder out(runtime.meter());
    for (const Value& item : a.sequence().items) out.add(item);
    for (const Value& item : b.sequence().items) out.add(item);
    return out.finish(a.sequence().flavour);
  }
  if (op == "*" && b.is_integer() && (a.is_text() || is_list_or_tuple(a))) {
    return repeat(runtime, a, b.integer());
  }
  if (op == "*" && a.is_integer() && (b.is_text() || is_list_or_tuple(b))) {
    return repeat(runtime, b, a.integer());
  }
  if (op == "+" && a.is_text()) {
    fail_here("can only concatenate str (not \"{}\") to str", b.type_name());
  }
  fail_operands(op, a, b);
}

Value negate(const Value& value) {
  if (value.is_undefined()) fail_undefined(value);
  if (value.is_integer()) return integer_arithmetic("-", 0, value.integer());
  if (value.is_number()) return Value(-value.number());
  fail_here("bad operand type for unary -: '{}'", value.type_name());
}

bool contains(Runtime& runtime, const Value& container, const Value& item) {
  if (container.is_undefined()) return false;
  if (container.is_text()) {
    if (!item.is_text()) {
      fail_here("'in <string>' requires string as left operand, not {}", item.type_name());
    }
    runtime.meter().step_bytes(container.text().size());
    return find_text(container.text(), item.text()) != std::string::npos;
  }
  if (container.is<Value::Dict>()) {
    return container.dict().find(item, runtime.meter()) != nullptr;
  }
  if (!container.is<Value::Sequence>()) {
    fail_here("argument of type '{}' is not iterable", container.type_name());
  }
  const Value items = iterate(container, runtime.meter());
  for (const Value& present : items.sequence().items) {
    if (equal(present, item, runtime.meter())) return true;
  }
  return false;
}

bool compare(Runtime& runtime, std::string_view op, const Value& a, const Value& b) {
  Meter& meter = runtime.meter();
  if (op == "==") return equal(a, b, meter);
  if (op == "!=") return !equal(a, b, meter);
  if (op == "<") return less(a, b, meter, op);
  if (op == ">") return less(b, a, meter, op);
  if (op == "in") return contains(runtime, b, a);
  if (op == "not in") return !contains(runtime, b, a);
  // Not the negation of the other order: NaN is neither.
  if (op == "<=") return less(a, b, meter, op) || equal(a, b, meter);
  return less(b, a, meter, op) || equal(a, b, meter);
}

}  // namespace longgen::tokenizer::jinja
