#include "longgen/tokenizer/jinja/value.h"

#include <algorithm>
#include <cmath>

#include "longgen/tokenizer/jinja/text.h"

namespace longgen::tokenizer::jinja {
namespace {

// Two lists item by item.
bool equal_items(const std::vector<Value>& a, const std::vector<Value>& b, Meter& meter) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!equal(a[i], b[i], meter)) return false;
  }
  return true;
}

bool equal_dicts(const DictData& a, const DictData& b, Meter& meter) {
  if (a.entries.size() != b.entries.size()) return false;
  for (const auto& [key, value] : a.entries) {
    const Value* other = b.find(key, meter);
    if (other == nullptr || !equal(value, *other, meter)) return false;
  }
  return true;
}

// Lists are equal to lists and tuples to tuples only.
bool comparable(Flavour a, Flavour b) {
  return a == b && (a == Flavour::kList || a == Flavour::kTuple || a == Flavour::kRange);
}

void check_key(const Value& key) {
  if (const auto* sequence = key.get<Value::Sequence>()) {
    if ((*sequence)->flavour == Flavour::kTuple) {
      for (const Value& item : (*sequence)->items) check_key(item);
      return;
    }
    if ((*sequence)->flavour == Flavour::kRange) return;
  }
  if (key.is<Value::Sequence>() || key.is<Value::Dict>()) {
    fail_here("unhashable type: '{}'", key.type_name());
  }
}

constexpr size_t kEntryBytes = sizeof(std::pair<Value, Value>);

}  // namespace

Value Value::text(std::string text) {
  return Value(
      Variant(std::make_shared<const StringData>(StringData{std::move(text), false, Charge()})));
}

Value Value::undefined(std::string why) {
  return Value(Variant(Undefined{std::make_shared<const std::string>(std::move(why))}));
}

Value make_text(Meter& meter, std::string_view text, bool markup) {
  Charge charge(meter);
  charge.add(sizeof(StringData) + text.size());
  return Value(Value::Variant(std::make_shared<const StringData>(
      StringData{std::string(text), markup, std::move(charge)})));
}

Value TextBuilder::finish(bool markup) {
  charge_.add(sizeof(StringData));
  return Value(Value::Variant(std::make_shared<const StringData>(
      StringData{std::move(text_), markup, std::move(charge_)})));
}

void SequenceBuilder::add(Value value) {
  charge_.add(sizeof(Value));
  depth_ = std::max(depth_, value.depth());
  items_.push_back(std::move(value));
}

Value SequenceBuilder::finish(Flavour flavour) {
  if (depth_ >= kMaxValueDepth) {
    fail_here("a list within lists, more than {} levels deep", kMaxValueDepth);
  }
  charge_.add(sizeof(SequenceData));
  return Value(Value::Variant(std::make_shared<const SequenceData>(
      SequenceData{flavour, std::move(items_), depth_ + 1, std::move(charge_)})));
}

DictBuilder::DictBuilder(Meter& meter) : meter_(&meter), data_(std::make_shared<DictData>()) {
  data_->charge = Charge(meter);
  data_->charge.add(sizeof(DictData));
}

void DictBuilder::set(Value key, Value value) {
  check_key(key);
  data_->depth = std::max({data_->depth, key.depth(), value.depth()});
  if (meter_ != nullptr) {
    if (const Value* present = data_->find(key, *meter_)) {
      *const_cast<Value*>(present) = std::move(value);
      return;
    }
  }
  // About what a node of the index costs.
  data_->charge.add(kEntryBytes + 64);
  data_->entries.emplace_back(std::move(key), std::move(value));
  const Value& stored = data_->entries.back().first;
  if (stored.is_text()) data_->text_keys.emplace(stored.text(), data_->entries.size() - 1);
}

Value DictBuilder::finish() {
  if (data_->depth >= kMaxValueDepth) {
    fail_here("a dict within dicts, more than {} levels deep", kMaxValueDepth);
  }
  ++data_->depth;
  return Value(Value::Variant(Value::Dict(std::move(data_))));
}

const Value* DictData::find(const Value& key, Meter& meter) const {
  if (key.is_text()) {
    meter.step();
    const auto it = text_keys.find(key.text());
    return it == text_keys.end() ? nullptr : &entries[it->second].second;
  }
  check_key(key);
  if (text_keys.size() == entries.size()) return nullptr;
  meter.step_items(entries.size());
  for (const auto& [present, value] : entries) {
    if (equal(present, key, meter)) return &value;
  }
  return nullptr;
}

int64_t Value::integer() const {
  if (const bool* truth = get<bool>()) return *truth ? 1 : 0;
  return std::get<int64_t>(data_);
}

double Value::number() const {
  if (const double* value = get<double>()) return *value;
  return static_cast<double>(integer());
}

bool Value::truthy() const {
  if (is_undefined() || is<None>()) return false;
  if (const bool* value = get<bool>()) return *value;
  if (const int64_t* value = get<int64_t>()) return *value != 0;
  if (const double* value = get<double>()) return *value != 0;
  if (is_text()) return !text().empty();
  if (is<Sequence>()) return sequence().flavour == Flavour::kGenerator || !sequence().items.empty();
  if (is<Dict>()) return !dict().entries.empty();
  if (const Loop* loop = get<Loop>()) return (*loop)->length() > 0;
  return true;
}

int Value::depth() const {
  if (is<Sequence>()) return sequence().depth;
  if (is<Dict>()) return dict().depth;
  if (const Loop* loop = get<Loop>()) return (*loop)->items.depth() + 1;
  if (const Method* method = get<Method>()) return (*method)->self.depth() + 1;
  return 0;
}

std::string_view Value::type_name() const {
  static constexpr std::string_view kNames[] = {
      "Undefined", "NoneType",  "bool",        "int",   "float",    "str",   "list",
      "dict",      "Namespace", "LoopContext", "Macro", "function", "method"};
  if (is_markup()) return "Markup";
  if (!is<Sequence>()) return kNames[data_.index()];
  switch (sequence().flavour) {
    case Flavour::kTuple:
      return "tuple";
    case Flavour::kRange:
      return "range";
    case Flavour::kView:
      return "dict view";
    case Flavour::kGenerator:
      return "generator";
    case Flavour::kList:
      break;
  }
  return "list";
}

bool equal(const Value& a, const Value& b, Meter& meter) {
  meter.step();
  if (a.is_undefined() || b.is_undefined()) return a.is_undefined() && b.is_undefined();
  if (a.is_number() && b.is_number()) {
    if (a.is_integer() && b.is_integer()) return a.integer() == b.integer();
    return a.number() == b.number();
  }
  if (a.is_text() && b.is_text()) {
    if (a.text().size() == b.text().size()) meter.step_bytes(a.text().size());
    return a.text() == b.text();
  }
  if (a.is<None>() || b.is<None>()) return a.is<None>() && b.is<None>();
  if (a.is<Value::Sequence>() && b.is<Value::Sequence>()) {
    if (&a.sequence() == &b.sequence()) return true;
    return comparable(a.sequence().flavour, b.sequence().flavour) &&
           equal_items(a.sequence().items, b.sequence().items, meter);
  }
  if (a.is<Value::Dict>() && b.is<Value::Dict>()) return equal_dicts(a.dict(), b.dict(), meter);
  if (const auto* space = a.get<NamespaceData*>()) {
    return b.is<NamespaceData*>() && *space == *b.get<NamespaceData*>();
  }
  if (const auto* macro = a.get<const MacroNode*>()) {
    return b.is<const MacroNode*>() && *macro == *b.get<const MacroNode*>();
  }
  return false;
}

bool less(const Value& a, const Value& b, Meter& meter, std::string_view operation) {
  meter.step();
  if (a.is_undefined() || b.is_undefined()) {
    const Undefined& which = a.is_undefined() ? *a.get<Undefined>() : *b.get<Undefined>();
    fail_here("{}", which.message ? *which.message : "the value is undefined");
  }
  if (a.is_number() && b.is_number()) {
    if (a.is_integer() && b.is_integer()) return a.integer() < b.integer();
    return a.number() < b.number();
  }
  if (a.is_text() && b.is_text()) {
    meter.step_bytes(std::min(a.text().size(), b.text().size()));
    return a.text() < b.text();  // the order of UTF-8 is that of code points
  }
  if (a.is<Value::Sequence>() && b.is<Value::Sequence>() &&
      a.sequence().flavour == b.sequence().flavour && a.sequence().flavour != Flavour::kRange &&
      comparable(a.sequence().flavour, b.sequence().flavour)) {
    const auto &x = a.sequence().items, &y = b.sequence().items;
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
      if (!equal(x[i], y[i], meter)) return less(x[i], y[i], meter, operation);
    }
    return x.size() < y.size();
  }
  fail_here("'{}' not supported between instances of '{}' and '{}'", operation, a.type_name(),
            b.type_name());
}

namespace {

void append_items(const std::vector<Value>& items, TextBuilder& out) {
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out.add(", ");
    append_repr(items[i], out);
  }
}

void append_sequence(const SequenceData& sequence, TextBuilder& out) {
  switch (sequence.flavour) {
    case Flavour::kList:
      out.add("[");
      append_items(sequence.items, out);
      out.add("]");
      return;
    case Flavour::kTuple:
      out.add("(");
      append_items(sequence.items, out);
      out.add(sequence.items.size() == 1 ? ",)" : ")");
      return;
    case Flavour::kRange:
    case Flavour::kView:
    case Flavour::kGenerator:
      fail_here("a {} cannot be printed; make it a list with | list",
                sequence.flavour == Flavour::kRange  ? "range"
                : sequence.flavour == Flavour::kView ? "dict's view"
                                                     : "generator");
  }
}

void append_dict(const DictData& dict, TextBuilder& out) {
  out.add("{");
  bool first = true;
  for (const auto& [key, value] : dict.entries) {
    if (!first) out.add(", ");
    first = false;
    append_repr(key, out);
    out.add(": ");
    append_repr(value, out);
  }
  out.add("}");
}

}  // namespace

void append_str(const Value& value, TextBuilder& out) {
  if (value.is_text()) {
    out.add(value.text());
  } else if (!value.is_undefined()) {
    append_repr(value, out);
  }
}

void append_repr(const Value& value, TextBuilder& out) {
  if (value.is_undefined()) {
    out.add("Undefined");
  } else if (value.is<None>()) {
    out.add("None");
  } else if (const bool* truth = value.get<bool>()) {
    out.add(*truth ? "True" : "False");
  } else if (const int64_t* integer = value.get<int64_t>()) {
    out.add(fmt::format("{}", *integer));
  } else if (const double* number = value.get<double>()) {
    out.add(float_repr(*number));
  } else if (value.is_markup()) {
    out.add("Markup(");
    out.add(string_repr(value.text()));
    out.add(")");
  } else if (value.is_text()) {
    out.add(string_repr(value.text()));
  } else if (value.is<Value::Sequence>()) {
    append_sequence(value.sequence(), out);
  } else if (value.is<Value::Dict>()) {
    append_dict(value.dict(), out);
  } else {
    fail_here("a {} cannot be printed", value.type_name());
  }
}

std::string to_str(const Value& value, Meter& meter) {
  if (value.is_text()) return value.text();
  TextBuilder out(meter);
  append_str(value, out);
  return std::move(out).take();
}

int64_t length_of(const Value& value) {
  if (value.is_undefined()) return 0;
  if (value.is_text()) return count_code_points(value.text());
  if (value.is<Value::Dict>()) return static_cast<int64_t>(value.dict().entries.size());
  if (value.is<Value::Sequence>() && value.sequence().flavour != Flavour::kGenerator) {
    return static_cast<int64_t>(value.sequence().items.size());
  }
  if (const auto* loop = value.get<Value::Loop>()) return (*loop)->length();
  fail_here("object of type '{}' has no len()", value.type_name());
}

Value iterate(const Value& value, Meter& meter) {
  if (value.is<Value::Sequence>()) {
    const SequenceData& data = value.sequence();
    if (data.flavour != Flavour::kGenerator) return value;
    if (data.consumed) return SequenceBuilder(meter).finish();
    data.consumed = true;
    return value;
  }
  SequenceBuilder items(meter);
  if (value.is_text()) {
    for (std::string_view rest = value.text(); !rest.empty();) {
      const size_t bytes = first_code_point(rest).bytes;
      items.add(make_text(meter, rest.substr(0, bytes), value.is_markup()));
      rest.remove_prefix(bytes);
    }
  } else if (value.is<Value::Dict>()) {
    for (const auto& [key, ignored] : value.dict().entries) items.add(key);
  } else if (!value.is_undefined()) {
    fail_here("'{}' object is not iterable", value.type_name());
  }
  return items.finish();
}

}  // namespace longgen::tokenizer::jinja
