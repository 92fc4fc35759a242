// What may follow "|".
#include <algorithm>
#include <array>
#include <cmath>

#include "longgen/tokenizer/jinja/runtime.h"
#include "longgen/tokenizer/jinja/text.h"

namespace longgen::tokenizer::jinja {
namespace {

using Filter = Value (*)(Runtime&, const Value&, const Args&);

// The text of a value; what went through `safe` stays so.
Value soft_text(Runtime& runtime, const Value& value) {
  return value.is_text() ? value : runtime.text(to_str(value, runtime.meter()));
}

bool flag(const Value* value, bool absent = false) {
  return value == nullptr ? absent : value->truthy();
}

Value lower_if_text(Runtime& runtime, const Value& value, bool ignore_case) {
  if (!ignore_case || !value.is_text()) return value;
  runtime.meter().step_bytes(4 * value.text().size());
  return runtime.text(to_lower(value.text()));
}

// What map and select go through: nothing for what is false, none included.
Value iterate_if_true(Runtime& runtime, const Value& value) {
  return value.truthy() ? iterate(value, runtime.meter())
                        : SequenceBuilder(runtime.meter()).finish();
}

// A path "a.b.0" of attributes (an integer is an index), as `attribute=` takes it.
Value follow(Runtime& runtime, Value item, const Value* attribute) {
  if (attribute == nullptr || attribute->is<None>()) return item;
  if (!attribute->is_text()) return get_item(runtime, item, *attribute);
  for (const std::string_view part : split(attribute->text(), ".", -1)) {
    const bool number = !part.empty() && std::all_of(part.begin(), part.end(),
                                                     [](char c) { return c >= '0' && c <= '9'; });
    const auto index = number ? parse_integer(part, 10) : std::nullopt;
    item = get_item(runtime, item, index ? Value(*index) : runtime.text(part));
  }
  return item;
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

Value filter_first(Runtime& runtime, const Value& value, const Args& args) {
  args.bind("first", {}, 0);
  const Value items = iterate(value, runtime.meter());
  const auto& list = items.sequence().items;
  return list.empty() ? Value::undefined("No first item, sequence was empty.") : list.front();
}

Value filter_last(Runtime& runtime, const Value& value, const Args& args) {
  args.bind("last", {}, 0);
  if (value.is<Value::Sequence>() && value.sequence().flavour == Flavour::kGenerator) {
    fail_here("'generator' object is not reversible");
  }
  const Value items = iterate(value, runtime.meter());
  const auto& list = items.sequence().items;
  return list.empty() ? Value::undefined("No last item, sequence was empty.") : list.back();
}

Value filter_list(Runtime& runtime, const Value& value, const Args& args) {
  args.bind("list", {}, 0);
  SequenceBuilder out(runtime.meter());
  const Value items = iterate(value, runtime.meter());
  for (const Value& item : items.sequence().items) out.add(item);
  return out.finish();
}

Value filter_reverse(Runtime& runtime, const Value& value, const Args& args) {
  args.bind("reverse", {}, 0);
  if (value.is_text()) {
    const Value step(int64_t{-1});
    return get_slice(runtime, value, nullptr, nullptr, &step);
  }
  const Value items = iterate(value, runtime.meter());
  SequenceBuilder out(runtime.meter());
  for (size_t i = items.sequence().items.size(); i-- > 0;) out.add(items.sequence().items[i]);
  return out.finish(Flavour::kGenerator);
}

Value filter_items(Runtime& runtime, const Value& value, const Args& args) {
  args.bind("items", {}, 0);
  if (!value.is<Value::Dict>() && !value.is_undefined()) {
    fail_here("Can only get item pairs from a mapping.");
  }
  SequenceBuilder out(runtime.meter());
  if (value.is<Value::Dict>()) {
    const Value view = call_method(runtime, value, "items", {});
    for (const Value& pair : view.sequence().items) out.add(pair);
  }
  return out.finish(Flavour::kGenerator);
}

Value filter_join(Runtime& runtime, const Value& value, const Args& args) {
  const auto a = args.bind("join", {"d", "attribute"}, 0);
  const std::string between = a[0] == nullptr ? "" : to_str(*a[0], runtime.meter());
  const Value items = iterate(value, runtime.meter());
  TextBuilder out(runtime.meter());
  bool first = true;
  for (const Value& item : items.sequence().items) {
    if (!first) out.add(between);
    first = false;
    append_str(follow(runtime, item, a[1]), out);
  }
  return out.finish();
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

Value filter_sum(Runtime& runtime, const Value& value, const Args& args) {
  const auto a = args.bind("sum", {"attribute", "start"}, 0);
  Value sum = a[1] == nullptr ? Value(int64_t{0}) : *a[1];
  const Value items = iterate(value, runtime.meter());
  for (const Value& item : items.sequence().items) {
    sum = arithmetic(runtime, "+", sum, follow(runtime, item, a[0]));
  }
  return sum;
}

// Lists of keys, in the order of the items.
Value sorted(Runtime& runtime, const std::vector<Value>& items, std::vector<Value> keys,
             bool reverse) {
  std::vector<size_t> order(items.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t x, size_t y) {
    return reverse ? less(keys[y], keys[x], runtime.meter())
                   : less(keys[x], keys[y], runtime.meter());
  });
  SequenceBuilder out(runtime.meter());
  for (const size_t i : order) out.add(items[i]);
  return out.finish();
}

Value filter_sort(Runtime& runtime, const Value& value, const Args& args) {
  const auto a = args.bind("sort", {"reverse", "case_sensitive", "attribute"}, 0);
  const Value items = iterate(value, runtime.meter());
  std::vector<Value> paths = {a[2] == nullptr ? Value(None{}) : *a[2]};
  if (paths[0].is_text()) {
    const Value whole = paths[0];
    paths.clear();
    for (const auto path : split(whole.text(), ",", -1)) paths.push_back(runtime.text(path));
  }
  std::vector<Value> keys;
  for (const Value& item : items.sequence().items) {
    SequenceBuilder key(runtime.meter());
    for (const Value& path : paths) {
      key.add(lower_if_text(runtime, follow(runtime, item, &path), !flag(a[1])));
    }
    keys.push_back(key.finish());
  }
  return sorted(runtime, items.sequence().items, std::move(keys), flag(a[0]));
}

Value filter_dictsort(Runtime& runtime, const Value& value, const Args& args) {
  const auto a = args.bind("dictsort", {"case_sensitive", "by", "reverse"}, 0);
  const std::string by = a[1] == nullptr ? "key" : text_argument(*a[1], "by");
  if (by != "key" && by != "value") fail_here("You can only sort by either \"key\" or \"value\"");
  if (value.is_undefined()) fail_undefined(value);
  if (!value.is<Value::Dict>())
    fail_here("'{}' object has no attribute 'items'", value.type_name());
  const Value view = call_method(runtime, value, "items", {});
  std::vector<Value> keys;
  for (const Value& pair : view.sequence().items) {
    keys.push_back(lower_if_text(runtime, pair.sequence().items[by == "key" ? 0 : 1], !flag(a[0])));
  }
  return sorted(runtime, view.sequence().items, std::move(keys), flag(a[2]));
}

Value filter_unique(Runtime& runtime, const Value& value, const Args& args) {
  const auto a = args.bind("unique", {"case_sensitive", "attribute"}, 0);
  const Value items = iterate(value, runtime.meter());
  std::vector<Value> seen;
  SequenceBuilder out(runtime.meter());
  for (const Value& item : items.sequence().items) {
    Value key = lower_if_text(runtime, follow(runtime, item, a[1]), !flag(a[0]));
    const bool known = std::any_of(seen.begin(), seen.end(), [&](const Value& other) {
      return equal(other, key, runtime.meter());
    });
    if (known) continue;
    seen.push_back(std::move(key));
    out.add(item);
  }
  return out.finish(Flavour::kGenerator);
}

Value extreme(Runtime& runtime, const Value& value, const Args& args, bool greatest) {
  const auto a = args.bind(greatest ? "max" : "min", {"case_sensitive", "attribute"}, 0);
  const Value items = iterate(value, runtime.meter());
  const auto& list = items.sequence().items;
  if (list.empty()) return Value::undefined("No aggregated item, sequence was empty.");
  const auto key = [&](const Value& item) {
    return lower_if_text(runtime, follow(runtime, item, a[1]), !flag(a[0]));
  };
  size_t best = 0;
  Value best_key = key(list[0]);
  for (size_t i = 1; i < list.size(); ++i) {
    Value other = key(list[i]);
    if (greatest ? less(best_key, other, runtime.meter())
                 : less(other, best_key, runtime.meter())) {
      best = i;
      best_key = std::move(other);
    }
  }
  return list[best];
}
Value filter_min(Runtime& runtime, const Value& value, const Args& args) {
  return extreme(runtime, value, args, false);
}
Value filter_max(Runtime& runtime, const Value& value, const Args& args) {
  return extreme(runtime, value, args, true);
}

Value filter_map(Runtime& runtime, const Value& value, const Args& args) {
  SequenceBuilder out(runtime.meter());
  const Value items = iterate_if_true(runtime, value);
  if (args.positional.empty()) {
    const auto a = args.bind("map", {"attribute", "default"}, 1);
    for (const Value& item : items.sequence().items) {
      Value found = follow(runtime, item, a[0]);
      const bool absent = a[1] != nullptr && !a[1]->is<None>() && found.is_undefined();
      out.add(absent ? *a[1] : std::move(found));
    }
    return out.finish(Flavour::kGenerator);
  }
  const std::string& name = text_argument(args.positional[0], "the filter of map");
  Args rest{{args.positional.begin() + 1, args.positional.end()}, args.keywords};
  for (const Value& item : items.sequence().items) {
    out.add(apply_filter(runtime, name, item, rest));
  }
  return out.finish(Flavour::kGenerator);
}

// select, reject and their forms that look at an attribute.
Value choose(Runtime& runtime, const Value& value, const Args& args, bool wanted, bool attribute) {
  const size_t offset = attribute ? 1 : 0;
  if (attribute && args.positional.empty()) fail_here("Missing parameter for attribute name");
  const bool has_test = args.positional.size() > offset;
  Args rest;
  if (has_test) {
    rest.positional.assign(args.positional.begin() + static_cast<ptrdiff_t>(offset) + 1,
                           args.positional.end());
    rest.keywords = args.keywords;
  }
  SequenceBuilder out(runtime.meter());
  const Value items = iterate_if_true(runtime, value);
  for (const Value& item : items.sequence().items) {
    const Value tested = attribute ? follow(runtime, item, &args.positional[0]) : item;
    const bool holds =
        has_test
            ? apply_test(runtime, text_argument(args.positional[offset], "the test"), tested, rest)
            : tested.truthy();
    if (holds == wanted) out.add(item);
  }
  return out.finish(Flavour::kGenerator);
}
Value filter_select(Runtime& runtime, const Value& value, const Args& args) {
  return choose(runtime, value, args, true, false);
}
Value filter_reject(Runtime& runtime, const Value& value, const Args& args) {
  return choose(runtime, value, args, false, false);
}
Value filter_selectattr(Runtime& runtime, const Value& value, const Args& args) {
  return choose(runtime, value, args, true, true);
}
Value filter_rejectattr(Runtime& runtime, const Value& value, const Args& args) {
  return choose(runtime, value, args, false, true);
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

constexpr std::pair<std::string_view, Filter> kFilters[] = {{"abs", filter_abs},
                                                            {"attr", filter_attr},
                                                            {"capitalize", filter_capitalize},
                                                            {"count", filter_length},
                                                            {"d", filter_default},
                                                            {"default", filter_default},
                                                            {"dictsort", filter_dictsort},
                                                            {"e", filter_escape},
                                                            {"escape", filter_escape},
                                                            {"first", filter_first},
                                                            {"float", filter_float},
                                                            {"format", filter_format},
                                                            {"indent", filter_indent},
                                                            {"int", filter_int},
                                                            {"items", filter_items},
                                                            {"join", filter_join},
                                                            {"last", filter_last},
                                                            {"length", filter_length},
                                                            {"list", filter_list},
                                                            {"lower", filter_lower},
                                                            {"map", filter_map},
                                                            {"max", filter_max},
                                                            {"min", filter_min},
                                                            {"reject", filter_reject},
                                                            {"rejectattr", filter_rejectattr},
                                                            {"replace", filter_replace},
                                                            {"reverse", filter_reverse},
                                                            {"round", filter_round},
                                                            {"safe", filter_safe},
                                                            {"select", filter_select},
                                                            {"selectattr", filter_selectattr},
                                                            {"sort", filter_sort},
                                                            {"string", filter_string},
                                                            {"sum", filter_sum},
                                                            {"title", filter_title},
                                                            {"tojson", filter_tojson},
                                                            {"trim", filter_trim},
                                                            {"unique", filter_unique},
                                                            {"upper", filter_upper}};

}  // namespace

Value apply_filter(Runtime& runtime, const std::string& name, const Value& value,
                   const Args& args) {
  runtime.meter().step();
  const auto* found = std::find_if(std::begin(kFilters), std::end(kFilters),
                                   [&](const auto& filter) { return filter.first == name; });
  if (found == std::end(kFilters)) fail_here("the filter {} is not supported", name);
  return found->second(runtime, value, args);
}

}  // namespace longgen::tokenizer::jinja
