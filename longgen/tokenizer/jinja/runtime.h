// What expressions can call: operators, attributes, methods, filters, tests and functions.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "longgen/tokenizer/jinja/value.h"

namespace longgen::tokenizer::jinja {

// Arguments of a call.
struct Args {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> keywords;

  // The arguments by the names of the parameters, null where left out. The first `required` must be
  // there; what is too much is an error that names `function`.
  std::vector<const Value*> bind(std::string_view function,
                                 std::initializer_list<std::string_view> parameters,
                                 size_t required) const;
};

// The state of one rendering.
class Runtime {
 public:
  Runtime(const Limits& limits, std::chrono::sys_seconds now) : meter_(limits), now_(now) {}
  virtual ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  Meter& meter() { return meter_; }
  std::chrono::sys_seconds now() const { return now_; }
  NamespaceData* make_namespace();
  Value text(std::string_view text, bool markup = false) { return make_text(meter_, text, markup); }

  // A macro, a function or a method.
  virtual Value call(const Value& callee, const Args& args) = 0;

 private:
  Meter meter_;
  std::chrono::sys_seconds now_;
  // Namespaces may hold each other: they all go at the end.
  std::vector<std::unique_ptr<NamespaceData>> namespaces_;
};

// a + b, a - b ...; integers beyond 64 bits are a Failure.
Value arithmetic(Runtime& runtime, std::string_view op, const Value& a, const Value& b);
Value negate(const Value& value);
bool contains(Runtime& runtime, const Value& container, const Value& item);
// `op` as the parser writes it.
bool compare(Runtime& runtime, std::string_view op, const Value& a, const Value& b);

// value.name and value[key]: as Jinja looks them up, undefined where there is none.
Value get_attribute(Runtime& runtime, const Value& value, const std::string& name);
Value get_item(Runtime& runtime, const Value& value, const Value& key);
// value[begin:end:step]; null: left out.
Value get_slice(Runtime& runtime, const Value& value, const Value* begin, const Value* end,
                const Value* step);

Value call_method(Runtime& runtime, const Value& self, const std::string& name, const Args& args);
Value apply_filter(Runtime& runtime, const std::string& name, const Value& value, const Args& args);
bool apply_test(Runtime& runtime, const std::string& name, const Value& value, const Args& args);
// Null when there is none of this name.
const Function* find_function(std::string_view name);

// Whether an attribute of this name is a method of Python's type of `value`; `supported`: and one
// that call_method knows.
struct MethodKind {
  bool exists = false, supported = false, changes = false;
};
MethodKind find_method(const Value& value, std::string_view name);

// "%s: %d" % values, and "{}: {}".format(values).
Value format_percent(Runtime& runtime, const Value& format, const Value& values);
Value format_braces(Runtime& runtime, const std::string& format, const Args& args);

// json.dumps; `indent` absent: one line. Fails for what JSON cannot hold.
struct JsonStyle {
  std::optional<std::string> indent;
  std::string item_separator = ", ", key_separator = ": ";
  bool ascii = false, sort_keys = false;
};
void append_json(Runtime& runtime, const Value& value, const JsonStyle& style, TextBuilder& out);

// An integer argument; fails naming `what` for another kind.
int64_t integer_argument(const Value& value, std::string_view what);
const std::string& text_argument(const Value& value, std::string_view what);
[[noreturn]] void fail_undefined(const Value& value);

}  // namespace longgen::tokenizer::jinja
