// The values of a template: Python's, as far as chat templates use them. Lists and dicts never
// change once made (the sandbox of Transformers forbids it), so values form no cycles; namespaces,
// which do change, belong to the runtime.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "longgen/tokenizer/jinja/meter.h"

namespace longgen::tokenizer::jinja {

class Value;
class Runtime;
struct Args;
struct MacroNode;

struct Undefined {
  std::shared_ptr<const std::string> message;  // why: "'x' is undefined"
};
struct None {};

struct StringData {
  std::string text;  // UTF-8
  bool markup;       // went through `safe`: what is added to it with + is escaped for HTML
  Charge charge;
};

enum class Flavour : uint8_t { kList, kTuple, kRange, kView, kGenerator };
struct SequenceData {
  Flavour flavour;
  std::vector<Value> items;
  int depth;  // of values within values
  Charge charge;
  mutable bool consumed = false;  // a generator can be read once
};

struct DictData {
  std::vector<std::pair<Value, Value>> entries;  // in order of insertion
  std::map<std::string_view, size_t> text_keys;  // -> entry
  int depth;
  Charge charge;

  const Value* find(const Value& key, Meter& meter) const;
};

struct NamespaceData {
  std::map<std::string, Value, std::less<>> attributes;
  Charge charge;
};

struct LoopData;
struct MethodData;

struct Function {
  std::string_view name;
  Value (*call)(Runtime&, const Args&);
};

class Value {
 public:
  using Text = std::shared_ptr<const StringData>;
  using Sequence = std::shared_ptr<const SequenceData>;
  using Dict = std::shared_ptr<const DictData>;
  using Loop = std::shared_ptr<LoopData>;
  using Method = std::shared_ptr<const MethodData>;
  using Variant = std::variant<Undefined, None, bool, int64_t, double, Text, Sequence, Dict,
                               NamespaceData*, Loop, const MacroNode*, const Function*, Method>;

  Value() = default;
  Value(None none) : data_(none) {}
  Value(bool value) : data_(value) {}
  Value(int64_t value) : data_(value) {}
  Value(double value) : data_(value) {}
  explicit Value(Variant data) : data_(std::move(data)) {}
  // Text of the template or of the caller: not charged.
  static Value text(std::string text);
  static Value undefined(std::string why);

  template <typename T>
  bool is() const {
    return std::holds_alternative<T>(data_);
  }
  template <typename T>
  const T* get() const {
    return std::get_if<T>(&data_);
  }
  bool is_undefined() const { return is<Undefined>(); }
  bool is_text() const { return is<Text>(); }
  bool is_markup() const { return is_text() && std::get<Text>(data_)->markup; }
  // bool is an integer in Python.
  bool is_integer() const { return is<int64_t>() || is<bool>(); }
  bool is_number() const { return is_integer() || is<double>(); }

  // The kind must fit.
  const std::string& text() const { return std::get<Text>(data_)->text; }
  int64_t integer() const;
  double number() const;
  const SequenceData& sequence() const { return *std::get<Sequence>(data_); }
  const DictData& dict() const { return *std::get<Dict>(data_); }

  bool truthy() const;
  // Levels of values within it; a scalar has 0.
  int depth() const;
  // As in Python's messages: "str", "dict", "NoneType".
  std::string_view type_name() const;

 private:
  Variant data_;
};

struct LoopData {
  Value items;  // a sequence
  int64_t index0 = 0;
  int64_t level = 0;  // loops around it

  int64_t length() const { return static_cast<int64_t>(items.sequence().items.size()); }
};

struct MethodData {
  Value self;
  std::string name;
};

constexpr int kMaxValueDepth = 100;

// Makes text, charged as it grows.
class TextBuilder {
 public:
  explicit TextBuilder(Meter& meter) : charge_(meter) {}
  void add(std::string_view part) {
    charge_.add(part.size());
    text_ += part;
  }
  const std::string& text() const { return text_; }
  Value finish(bool markup = false);
  std::string take() && { return std::move(text_); }

 private:
  std::string text_;
  Charge charge_;
};

class SequenceBuilder {
 public:
  explicit SequenceBuilder(Meter& meter) : charge_(meter) {}
  void add(Value value);
  size_t size() const { return items_.size(); }
  std::vector<Value>& items() { return items_; }
  Value finish(Flavour flavour = Flavour::kList);

 private:
  std::vector<Value> items_;
  int depth_ = 0;
  Charge charge_;
};

class DictBuilder {
 public:
  explicit DictBuilder(Meter& meter);
  DictBuilder() : data_(std::make_shared<DictData>()) {}  // of the caller's data: not charged
  // A key that is there keeps its place and gets the new value. Fails for a key that cannot be one.
  void set(Value key, Value value);
  Value finish();

 private:
  Meter* meter_ = nullptr;
  std::shared_ptr<DictData> data_;
};

Value make_text(Meter& meter, std::string_view text, bool markup = false);

// Python's ==; 1 == 1.0 == True.
bool equal(const Value& a, const Value& b, Meter& meter);
// Python's <; fails for kinds that have no order.
bool less(const Value& a, const Value& b, Meter& meter, std::string_view operation = "<");

// str() and repr().
void append_str(const Value& value, TextBuilder& out);
void append_repr(const Value& value, TextBuilder& out);
std::string to_str(const Value& value, Meter& meter);

// len(); fails for what has none.
int64_t length_of(const Value& value);
// What a for loop goes through, as a sequence; fails for what cannot be iterated. A generator is
// empty the second time.
Value iterate(const Value& value, Meter& meter);

}  // namespace longgen::tokenizer::jinja
