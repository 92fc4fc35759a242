// What may follow "is".
#include <algorithm>
#include <array>

#include "longgen/tokenizer/jinja/runtime.h"
#include "longgen/tokenizer/jinja/text.h"

namespace longgen::tokenizer::jinja {
namespace {

const Value& operand(const Args& args, const std::string& name) {
  if (!args.keywords.empty()) fail_here("the test {} takes no argument by name", name);
  if (args.positional.size() != 1) fail_here("the test {} needs one argument", name);
  return args.positional[0];
}

bool is_sequence(const Value& value) {
  if (value.is<Value::Sequence>()) return value.sequence().flavour <= Flavour::kRange;
  return value.is_text() || value.is<Value::Dict>() || value.is_undefined();
}

bool is_iterable(const Value& value) {
  return value.is<Value::Sequence>() || value.is_text() || value.is<Value::Dict>() ||
         value.is_undefined() || value.is<Value::Loop>();
}

bool is_callable(const Value& value) {
  return value.is<const MacroNode*>() || value.is<const Function*>() || value.is<Value::Method>() ||
         value.is_undefined();
}

// Python's `is`, where it is certain.
bool is_same(const Value& a, const Value& b) {
  if (a.is<None>() || b.is<None>()) return a.is<None>() && b.is<None>();
  if (a.is<bool>() || b.is<bool>()) {
    return a.is<bool>() && b.is<bool>() && a.integer() == b.integer();
  }
  fail_here("the test sameas is only supported for true, false and none");
}

bool is_cased(Runtime& runtime, const Value& value, bool upper) {
  const std::string text = to_str(value, runtime.meter());
  Args none;
  return call_method(runtime, runtime.text(text), upper ? "isupper" : "islower", none).truthy();
}

// The tests without an argument.
std::optional<bool> simple_test(Runtime& runtime, const std::string& name, const Value& value) {
  if (name == "defined") return !value.is_undefined();
  if (name == "undefined") return value.is_undefined();
  if (name == "none") return value.is<None>();
  if (name == "string") return value.is_text();
  if (name == "number") return value.is_number();
  if (name == "integer") return value.is<int64_t>();
  if (name == "float") return value.is<double>();
  if (name == "boolean") return value.is<bool>();
  if (name == "true") return value.is<bool>() && value.truthy();
  if (name == "false") return value.is<bool>() && !value.truthy();
  if (name == "mapping") return value.is<Value::Dict>();
  if (name == "sequence") return is_sequence(value);
  if (name == "iterable") return is_iterable(value);
  if (name == "callable") return is_callable(value);
  if (name == "lower") return is_cased(runtime, value, false);
  if (name == "upper") return is_cased(runtime, value, true);
  if (name == "odd" || name == "even") {
    const Value rest = arithmetic(runtime, "%", value, Value(int64_t{2}));
    return equal(rest, Value(int64_t{name == "odd"}), runtime.meter());
  }
  return std::nullopt;
}

std::string_view comparison(std::string_view name) {
  static constexpr std::pair<std::string_view, std::string_view> kNames[] = {
      {"eq", "=="}, {"==", "=="}, {"equalto", "=="},    {"ne", "!="}, {"!=", "!="},
      {"lt", "<"},  {"<", "<"},   {"lessthan", "<"},    {"le", "<="}, {"<=", "<="},
      {"gt", ">"},  {">", ">"},   {"greaterthan", ">"}, {"ge", ">="}, {">=", ">="}};
  for (const auto& [test, op] : kNames) {
    if (test == name) return op;
  }
  return "";
}

}  // namespace

bool apply_test(Runtime& runtime, const std::string& name, const Value& value, const Args& args) {
  runtime.meter().step();
  if (const std::string_view op = comparison(name); !op.empty()) {
    return compare(runtime, op, value, operand(args, name));
  }
  if (name == "in") return contains(runtime, operand(args, name), value);
  if (name == "sameas") return is_same(value, operand(args, name));
  if (name == "divisibleby") {
    const Value rest = arithmetic(runtime, "%", value, operand(args, name));
    return equal(rest, Value(int64_t{0}), runtime.meter());
  }
  if (const auto result = simple_test(runtime, name, value)) {
    if (!args.positional.empty() || !args.keywords.empty()) {
      fail_here("the test {} takes no argument", name);
    }
    return *result;
  }
  fail_here("the test {} is not supported", name);
}

}  // namespace longgen::tokenizer::jinja
