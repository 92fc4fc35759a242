#include <algorithm>

#include "longgen/tokenizer/jinja/ast.h"
#include "longgen/tokenizer/jinja/runtime.h"
#include "longgen/tokenizer/jinja/text.h"

namespace longgen::tokenizer::jinja {
namespace {

// "'dict object' has no attribute 'x'", as Jinja says it.
Value missing(Runtime& runtime, const Value& value, const Value& key) {
  std::string object(value.type_name());
  object = value.is<None>() ? "None" : object + " object";
  if (key.is_text()) {
    return Value::undefined(
        fmt::format("'{}' has no attribute {}", object, string_repr(key.text())));
  }
  return Value::undefined(
      fmt::format("{} has no element {}", object, to_str(key, runtime.meter())));
}

// The attributes of `loop`.
std::optional<Value> loop_attribute(const LoopData& loop, std::string_view name) {
  const auto& items = loop.items.sequence().items;
  const int64_t length = loop.length(), i = loop.index0;
  if (name == "index") return Value(i + 1);
  if (name == "index0") return Value(i);
  if (name == "first") return Value(i == 0);
  if (name == "last") return Value(i + 1 == length);
  if (name == "length") return Value(length);
  if (name == "revindex") return Value(length - i);
  if (name == "revindex0") return Value(length - i - 1);
  if (name == "depth") return Value(int64_t{1});
  if (name == "depth0") return Value(int64_t{0});
  if (name == "previtem") {
    return i == 0 ? Value::undefined("there is no previous item")
                  : items[static_cast<size_t>(i - 1)];
  }
  if (name == "nextitem") {
    return i + 1 == length ? Value::undefined("there is no next item")
                           : items[static_cast<size_t>(i + 1)];
  }
  if (name == "changed") fail_here("loop.changed is not supported");
  return std::nullopt;
}

// A method by its name, before it is called.
std::optional<Value> method_of(const Value& value, const std::string& name) {
  const MethodKind kind = find_method(value, name);
  if (!kind.exists) return std::nullopt;
  if (value.depth() + 1 >= kMaxValueDepth) fail_here("values nested too deep");
  return Value(Value::Variant(std::make_shared<const MethodData>(MethodData{value, name})));
}

std::optional<Value> own_attribute(const Value& value, const std::string& name) {
  if (const auto* space = value.get<NamespaceData*>()) {
    const auto it = (*space)->attributes.find(name);
    if (it != (*space)->attributes.end()) return it->second;
    return std::nullopt;
  }
  if (const auto* loop = value.get<Value::Loop>()) {
    if (auto found = loop_attribute(**loop, name)) return found;
  }
  if (const auto* macro = value.get<const MacroNode*>()) {
    if (name == "name") return Value::text((*macro)->name);
  }
  return method_of(value, name);
}

// value[key], or nothing.
std::optional<Value> item_of(Runtime& runtime, const Value& value, const Value& key) {
  if (value.is<Value::Dict>()) {
    if (key.is<Value::Dict>() ||
        (key.is<Value::Sequence>() && key.sequence().flavour == Flavour::kList)) {
      return std::nullopt;  // no key can be one
    }
    const Value* found = value.dict().find(key, runtime.meter());
    return found == nullptr ? std::nullopt : std::optional(*found);
  }
  if (!key.is_integer()) return std::nullopt;
  int64_t index = key.integer();
  if (value.is_text()) {
    runtime.meter().step_bytes(value.text().size());
    const int64_t length = count_code_points(value.text());
    if (index < 0) index += length;
    if (index < 0 || index >= length) return std::nullopt;
    const std::string_view rest =
        std::string_view(value.text()).substr(code_point_offset(value.text(), index));
    return runtime.text(rest.substr(0, first_code_point(rest).bytes), value.is_markup());
  }
  if (!value.is<Value::Sequence>()) return std::nullopt;
  const SequenceData& sequence = value.sequence();
  if (sequence.flavour == Flavour::kView || sequence.flavour == Flavour::kGenerator) {
    return std::nullopt;
  }
  const auto length = static_cast<int64_t>(sequence.items.size());
  if (index < 0) index += length;
  if (index < 0 || index >= length) return std::nullopt;
  return sequence.items[static_cast<size_t>(index)];
}

int64_t bound(const Value* value, int64_t absent) {
  if (value == nullptr || value->is<None>()) return absent;
  if (value->is_undefined()) fail_undefined(*value);
  if (!value->is_integer()) fail_here("slice indices must be integers or None");
  return value->integer();
}

// The first index, and how many, of a slice of `length` items (CPython's PySlice_AdjustIndices).
struct Range {
  int64_t first, count;
};
Range adjust(int64_t length, const Value* begin, const Value* end, int64_t step) {
  const int64_t low = step > 0 ? 0 : -1, high = step > 0 ? length : length - 1;
  const auto clamp = [&](int64_t i) {
    if (i < 0) i = i < -length ? low : i + length;
    return std::clamp(i, low, high);
  };
  const bool has_begin = begin != nullptr && !begin->is<None>();
  const bool has_end = end != nullptr && !end->is<None>();
  const int64_t first = has_begin ? clamp(bound(begin, 0)) : (step > 0 ? 0 : length - 1);
  const int64_t last = has_end ? clamp(bound(end, 0)) : (step > 0 ? length : -1);
  // In unsigned arithmetic, for a step of -2^63.
  const uint64_t stride = step > 0 ? static_cast<uint64_t>(step) : 0 - static_cast<uint64_t>(step);
  const int64_t distance = step > 0 ? last - first : first - last;
  if (distance <= 0) return {first, 0};
  return {first, static_cast<int64_t>((static_cast<uint64_t>(distance) - 1) / stride + 1)};
}

Value slice_text(Runtime& runtime, const Value& value, const Value* begin, const Value* end,
                 int64_t step) {
  const std::string_view text = value.text();
  runtime.meter().step_bytes(2 * text.size());
  const Range range = adjust(count_code_points(text), begin, end, step);
  if (range.count == 0) return runtime.text("", value.is_markup());
  if (step == 1) {
    const size_t from = code_point_offset(text, range.first);
    return runtime.text(text.substr(from, code_point_offset(text.substr(from), range.count)),
                        value.is_markup());
  }
  std::vector<size_t> starts;
  for (size_t i = 0; i < text.size(); i += first_code_point(text.substr(i)).bytes) {
    starts.push_back(i);
  }
  TextBuilder out(runtime.meter());
  for (int64_t i = 0; i < range.count; ++i) {
    const std::string_view rest = text.substr(starts[static_cast<size_t>(range.first + i * step)]);
    out.add(rest.substr(0, first_code_point(rest).bytes));
  }
  return out.finish(value.is_markup());
}

}  // namespace

Value get_attribute(Runtime& runtime, const Value& value, const std::string& name) {
  if (value.is_undefined()) fail_undefined(value);
  if (const auto own = own_attribute(value, name)) return *own;
  const Value key = Value::text(name);
  if (const auto item = item_of(runtime, value, key)) return *item;
  return missing(runtime, value, key);
}

Value get_item(Runtime& runtime, const Value& value, const Value& key) {
  if (value.is_undefined()) fail_undefined(value);
  if (const auto item = item_of(runtime, value, key)) return *item;
  if (key.is_text()) {
    if (const auto own = own_attribute(value, key.text())) return *own;
  }
  return missing(runtime, value, key);
}

Value get_slice(Runtime& runtime, const Value& value, const Value* begin, const Value* end,
                const Value* step) {
  const int64_t stride = bound(step, 1);
  if (value.is_undefined()) fail_undefined(value);
  const bool sliceable = value.is_text() || (value.is<Value::Sequence>() &&
                                             value.sequence().flavour <= Flavour::kRange);
  if (!sliceable) fail_here("'{}' object cannot be sliced", value.type_name());
  if (stride == 0) fail_here("slice step cannot be zero");
  if (value.is_text()) return slice_text(runtime, value, begin, end, stride);
  const auto& items = value.sequence().items;
  const Range range = adjust(static_cast<int64_t>(items.size()), begin, end, stride);
  SequenceBuilder out(runtime.meter());
  for (int64_t i = 0; i < range.count; ++i) {
    out.add(items[static_cast<size_t>(range.first + i * stride)]);
  }
  return out.finish(value.sequence().flavour);
}

}  // namespace longgen::tokenizer::jinja
