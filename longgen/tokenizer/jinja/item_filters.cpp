// Filters that go through the items of a value.
#include <algorithm>
#include <array>
#include <iterator>

#include "longgen/tokenizer/jinja/filters.h"
#include "longgen/tokenizer/jinja/text.h"

namespace longgen::tokenizer::jinja {
namespace {

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
      const Value found = follow(runtime, item, a[0]);
      const bool absent = a[1] != nullptr && !a[1]->is<None>() && found.is_undefined();
      out.add(absent ? *a[1] : found);
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

constexpr NamedFilter kFilters[] = {{"dictsort", filter_dictsort},
                                    {"first", filter_first},
                                    {"items", filter_items},
                                    {"join", filter_join},
                                    {"last", filter_last},
                                    {"list", filter_list},
                                    {"map", filter_map},
                                    {"max", filter_max},
                                    {"min", filter_min},
                                    {"reject", filter_reject},
                                    {"rejectattr", filter_rejectattr},
                                    {"reverse", filter_reverse},
                                    {"select", filter_select},
                                    {"selectattr", filter_selectattr},
                                    {"sort", filter_sort},
                                    {"sum", filter_sum},
                                    {"unique", filter_unique}};

}  // namespace

std::span<const NamedFilter> item_filters() { return kFilters; }

}  // namespace longgen::tokenizer::jinja
