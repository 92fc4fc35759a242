// What may follow "|": filters of texts, numbers and any value; item_filters.cpp has those of
// lists.
#include "longgen/tokenizer/jinja/filters.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "longgen/base/html.h"
#include "longgen/tokenizer/jinja/runtime.h"
#include "longgen/tokenizer/jinja/text.h"

namespace longgen::tokenizer::jinja {
namespace {

// The text of a value; what went through `safe` stays so.
Value soft_text(Runtime& runtime, const Value& value) {
  return value.is_text() ? value : runtime.text(to_str(value, runtime.meter()));
}

Value filter_trim(Runtime& runtime, const Value& value, const Args& args) {
  return call_method(runtime, soft_text(runtime, value), "strip", args);
}
Value filter_upper(Runtime& runtime, const Value& value, const Args& args) {
  return call_method(runtime, soft_text(runtime, value), "upper", args);
}
Value filter_lower(Runtime& runtime, const Value& value, const Args& args) {
  return call_method(runtime, soft_text(runtime, value), "lower", args);
}
Value filter_capitalize(Runtime& runtime, const Value& value, const Args& args) {
  return call_method(runtime, soft_text(runtime, value), "capitalize", args);
}

// Jinja's own: words begin behind white space, hyphens and opening brackets.
Value filter_title(Runtime& runtime, const Value& value, const Args& args) {
  args.bind("title", {}, 0);
  const Value text = soft_text(runtime, value);
  TextBuilder out(runtime.meter());
  bool inside = false;
  for (std::string_view rest = text.text(); !rest.empty();) {
    const CodePoint c = first_code_point(rest);
    const std::string_view one = rest.substr(0, c.bytes);
    const bool separates =
        is_space(c.value) || (c.bytes == 1 && std::string_view("-({[<").find(one) != one.npos);
    out.add(inside && !separates ? to_lower(one) : to_upper(one));
    inside = !separates;
    rest.remove_prefix(c.bytes);
  }
  return out.finish();
}

Value filter_replace(Runtime& runtime, const Value& value, const Args& args) {
  const auto a = args.bind("replace", {"old", "new", "count"}, 2);
  Args plain;
  plain.positional = {runtime.text(to_str(*a[0], runtime.meter())),
                      runtime.text(to_str(*a[1], runtime.meter()))};
  if (a[2] != nullptr && !a[2]->is<None>()) plain.positional.push_back(*a[2]);
  return call_method(runtime, soft_text(runtime, value), "replace", plain);
}

Value filter_string(Runtime& runtime, const Value& value, const Args& args) {
  args.bind("string", {}, 0);
  return soft_text(runtime, value);
}
Value filter_safe(Runtime& runtime, const Value& value, const Args& args) {
  args.bind("safe", {}, 0);
  return runtime.text(to_str(value, runtime.meter()), true);
}
Value filter_escape(Runtime& runtime, const Value& value, const Args& args) {
  args.bind("escape", {}, 0);
  if (value.is_markup()) return value;
  return runtime.text(escape_html(to_str(value, runtime.meter())), true);
}

Value filter_length(Runtime& runtime, const Value& value, const Args& args) {
  args.bind("length", {}, 0);
  if (value.is_text()) runtime.meter().step_bytes(value.text().size());
  return Value(length_of(value));
}

Value filter_default(Runtime& runtime, const Value& value, const Args& args) {
  const auto a = args.bind("default", {"default_value", "boolean"}, 0);
  const bool absent = value.is_undefined() || (flag(a[1]) && !value.truthy());
  if (!absent) return value;
  return a[0] == nullptr ? runtime.text("") : *a[0];
}

Value filter_abs(Runtime& runtime, const Value& value, const Args& args) {
  args.bind("abs", {}, 0);
  if (value.is_undefined()) fail_undefined(value);
  if (!value.is_number()) fail_here("bad operand type for abs(): '{}'", value.type_name());
  if (!value.is_integer()) return Value(std::abs(value.number()));
  return value.integer() < 0 ? negate(value) : arithmetic(runtime, "+", value, Value(int64_t{0}));
}

Value truncate_to_integer(double value) {
  if (!(std::abs(value) < 9e18)) fail_here("{} has no integer of 64 bits", float_repr(value));
  return Value(static_cast<int64_t>(value));
}

Value filter_int(Runtime&, const Value& value, const Args& args) {
  const auto a = args.bind("int", {"default", "base"}, 0);
  const int64_t base = a[1] == nullptr ? 10 : integer_argument(*a[1], "base");
  if (base < 2 || base > 36) fail_here("the base {} is not supported; 2 to 36 are", base);
  if (value.is_undefined()) fail_undefined(value);
  if (value.is_integer()) return Value(value.integer());
  if (value.is_number()) return truncate_to_integer(value.number());
  if (value.is_text()) {
    if (const auto whole = parse_integer(value.text(), static_cast<int>(base)))
      return Value(*whole);
    const auto number = parse_float(value.text());
    if (number && std::isfinite(*number)) return truncate_to_integer(*number);
  }
  return a[0] == nullptr ? Value(int64_t{0}) : *a[0];
}

Value filter_float(Runtime&, const Value& value, const Args& args) {
  const auto a = args.bind("float", {"default"}, 0);
  if (value.is_undefined()) fail_undefined(value);
  if (value.is_number()) return Value(value.number());
  if (value.is_text()) {
    if (const auto number = parse_float(value.text())) return Value(*number);
  }
  return a[0] == nullptr ? Value(0.0) : *a[0];
}

Value filter_round(Runtime&, const Value& value, const Args& args) {
  const auto a = args.bind("round", {"precision", "method"}, 0);
  const int64_t precision = a[0] == nullptr ? 0 : integer_argument(*a[0], "precision");
  const std::string method = a[1] == nullptr ? "common" : text_argument(*a[1], "method");
  if (value.is_undefined()) fail_undefined(value);
  if (!value.is_number()) fail_here("type {} doesn't define round", value.type_name());
  if (precision < 0 || precision > 15) fail_here("round to {} places is not supported", precision);
  const double scale = std::pow(10.0, static_cast<double>(precision));
  if (method == "ceil") return Value(std::ceil(value.number() * scale) / scale);
  if (method == "floor") return Value(std::floor(value.number() * scale) / scale);
  if (method != "common") fail_here("method must be common, ceil or floor");
  if (value.is_integer()) return Value(value.integer());
  // Decimal digits round half to even exactly, as Python does.
  return Value(*parse_float(fmt::format("{:.{}f}", value.number(), precision)));
}

Value filter_indent(Runtime& runtime, const Value& value, const Args& args) {
  const auto a = args.bind("indent", {"width", "first", "blank"}, 0);
  std::string indention(4, ' ');
  if (a[0] != nullptr && a[0]->is_text()) {
    indention = a[0]->text();
  } else if (a[0] != nullptr) {
    const int64_t width = integer_argument(*a[0], "width");
    if (width > 1000) fail_here("an indent of {}", width);
    indention.assign(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
  }
  if (value.is_undefined()) fail_undefined(value);
  const std::string text = text_argument(value, "what is indented") + "\n";
  TextBuilder out(runtime.meter());
  bool first = true;
  for (const std::string_view line : split_lines(text, false)) {
    if (!first) out.add("\n");
    if (first ? flag(a[1]) : (flag(a[2]) || !line.empty())) out.add(indention);
    out.add(line);
    first = false;
  }
  return out.finish(value.is_markup());
}

Value filter_tojson(Runtime& runtime, const Value& value, const Args& args) {
  const auto a = args.bind("tojson", {"ensure_ascii", "indent", "separators", "sort_keys"}, 0);
  JsonStyle style{.ascii = flag(a[0]), .sort_keys = flag(a[3])};
  if (a[1] != nullptr && !a[1]->is<None>()) {
    const Value& indent = *a[1];
    if (indent.is_text()) {
      style.indent = indent.text();
    } else {
      const int64_t width = integer_argument(indent, "indent");
      if (width > 1000) fail_here("an indent of {}", width);
      style.indent = std::string(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
    }
    style.item_separator.assign(1, ',');
  }
  if (a[2] != nullptr && !a[2]->is<None>()) {
    const Value parts = iterate(*a[2], runtime.meter());
    const auto& items = parts.sequence().items;
    if (items.size() != 2) fail_here("separators: give two");
    style.item_separator = text_argument(items[0], "a separator");
    style.key_separator = text_argument(items[1], "a separator");
  }
  TextBuilder out(runtime.meter());
  append_json(runtime, value, style, out);
  return out.finish();
}

Value filter_format(Runtime& runtime, const Value& value, const Args& args) {
  if (!args.keywords.empty()) fail_here("the filter format by name is not supported");
  SequenceBuilder values(runtime.meter());
  for (const Value& item : args.positional) values.add(item);
  return format_percent(runtime, soft_text(runtime, value), values.finish(Flavour::kTuple));
}

Value filter_attr(Runtime& runtime, const Value& value, const Args& args) {
  const auto a = args.bind("attr", {"name"}, 1);
  const std::string& name = text_argument(*a[0], "the name of an attribute");
  if (value.is<Value::Dict>() && !find_method(value, name).exists) {
    return Value::undefined(fmt::format("'dict object' has no attribute {}", string_repr(name)));
  }
  return get_attribute(runtime, value, name);
}

constexpr NamedFilter kFilters[] = {
    {"abs", filter_abs},       {"attr", filter_attr},     {"capitalize", filter_capitalize},
    {"count", filter_length},  {"d", filter_default},     {"default", filter_default},
    {"e", filter_escape},      {"escape", filter_escape}, {"float", filter_float},
    {"format", filter_format}, {"indent", filter_indent}, {"int", filter_int},
    {"length", filter_length}, {"lower", filter_lower},   {"replace", filter_replace},
    {"round", filter_round},   {"safe", filter_safe},     {"string", filter_string},
    {"title", filter_title},   {"tojson", filter_tojson}, {"trim", filter_trim},
    {"upper", filter_upper}};

const NamedFilter* find(std::span<const NamedFilter> filters, std::string_view name) {
  const auto found = std::find_if(filters.begin(), filters.end(),
                                  [&](const NamedFilter& filter) { return filter.name == name; });
  return found == filters.end() ? nullptr : &*found;
}

}  // namespace

Value apply_filter(Runtime& runtime, const std::string& name, const Value& value,
                   const Args& args) {
  runtime.meter().step();
  const NamedFilter* found = find(kFilters, name);
  if (found == nullptr) found = find(item_filters(), name);
  if (found == nullptr) fail_here("the filter {} is not supported", name);
  return found->filter(runtime, value, args);
}

}  // namespace longgen::tokenizer::jinja
