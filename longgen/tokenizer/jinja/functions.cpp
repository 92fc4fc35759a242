// Global functions, and the arguments of calls.
#include <algorithm>
#include <array>
#include <ctime>

#include "longgen/tokenizer/jinja/runtime.h"
#include "longgen/tokenizer/jinja/text.h"

namespace longgen::tokenizer::jinja {
namespace {

constexpr int64_t kMaxRange = 100'000;  // as in Jinja's sandbox

Value make_range(Runtime& runtime, const Args& args) {
  const auto a = args.bind("range", {"start", "stop", "step"}, 1);
  int64_t start = integer_argument(*a[0], "range"), stop = start;
  if (a[1] == nullptr) {
    start = 0;
  } else {
    stop = integer_argument(*a[1], "range");
  }
  const int64_t step = a[2] == nullptr ? 1 : integer_argument(*a[2], "range");
  if (step == 0) fail_here("range() arg 3 must not be zero");
  SequenceBuilder out(runtime.meter());
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (out.size() >= kMaxRange) fail_here("a range of more than {} numbers", kMaxRange);
    out.add(Value(i));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return out.finish(Flavour::kRange);
}

// The entries of dict(...) and namespace(...): of a dict or of pairs, then by name.
void for_each_entry(Runtime& runtime, std::string_view function, const Args& args,
                    const std::function<void(const Value&, const Value&)>& visit) {
  if (args.positional.size() > 1) fail_here("{}() takes one dict at most", function);
  if (!args.positional.empty()) {
    const Value& first = args.positional[0];
    if (first.is<Value::Dict>()) {
      for (const auto& [key, value] : first.dict().entries) visit(key, value);
    } else {
      const Value pairs = iterate(first, runtime.meter());
      for (const Value& pair : pairs.sequence().items) {
        const Value parts = iterate(pair, runtime.meter());
        const auto& items = parts.sequence().items;
        if (items.size() != 2) fail_here("{}() needs pairs of key and value", function);
        visit(items[0], items[1]);
      }
    }
  }
  for (const auto& [name, value] : args.keywords) visit(Value::text(name), value);
}

Value make_dict(Runtime& runtime, const Args& args) {
  DictBuilder dict(runtime.meter());
  for_each_entry(runtime, "dict", args,
                 [&](const Value& key, const Value& value) { dict.set(key, value); });
  return dict.finish();
}

Value make_namespace(Runtime& runtime, const Args& args) {
  NamespaceData* space = runtime.make_namespace();
  for_each_entry(runtime, "namespace", args, [&](const Value& key, const Value& value) {
    const std::string& name = text_argument(key, "an attribute of a namespace");
    if (name.starts_with('_')) {
      fail_here("attributes of a namespace cannot start with an underscore: {}", name);
    }
    space->charge.add(name.size() + 64);
    space->attributes[name] = value;
  });
  return Value(Value::Variant(space));
}

Value raise_exception(Runtime& runtime, const Args& args) {
  const auto a = args.bind("raise_exception", {"message"}, 1);
  fail_here("the template refuses this conversation: {}", to_str(*a[0], runtime.meter()));
}

// The directives of the C library that depend on nothing but the time.
std::string format_time(Runtime& runtime, const std::string& format) {
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%') continue;
    size_t kind = i + 1;
    if (kind < format.size() && format[kind] == '-') ++kind;
    static constexpr std::string_view kKnown = "aAbBcdDeFGgHhIjmMnprRSTtuUVwWxXyY%";
    if (kind >= format.size() || kKnown.find(format[kind]) == kKnown.npos) {
      fail_here("strftime_now: the directive {} is not supported",
                string_repr(format.substr(i, kind - i + 1)));
    }
    i = kind;
  }
  if (format.size() > 1000) fail_here("strftime_now: a format of {} bytes", format.size());
  const auto seconds = static_cast<std::time_t>(runtime.now().time_since_epoch().count());
  std::tm time{};
  gmtime_r(&seconds, &time);
  // A directive of two characters gives 24 at most; the mark keeps an empty result apart from an
  // error.
  std::vector<char> buffer(format.size() * 16 + 64);
  const size_t size = std::strftime(buffer.data(), buffer.size(), (format + "|").c_str(), &time);
  if (size == 0) fail_here("strftime_now cannot write {}", string_repr(format));
  return {buffer.data(), size - 1};
}

Value strftime_now(Runtime& runtime, const Args& args) {
  const auto a = args.bind("strftime_now", {"format"}, 1);
  return runtime.text(format_time(runtime, text_argument(*a[0], "the format of strftime_now")));
}

template <size_t i>
Value unsupported(Runtime&, const Args&) {
  static constexpr std::string_view kNames[] = {"cycler", "joiner", "lipsum"};
  fail_here("the function {} is not supported", kNames[i]);
}

constexpr std::array kFunctions = {
    Function{"range", make_range},          Function{"dict", make_dict},
    Function{"namespace", make_namespace},  Function{"raise_exception", raise_exception},
    Function{"strftime_now", strftime_now}, Function{"cycler", unsupported<0>},
    Function{"joiner", unsupported<1>},     Function{"lipsum", unsupported<2>},
};

}  // namespace

const Function* find_function(std::string_view name) {
  const auto* found = std::find_if(kFunctions.begin(), kFunctions.end(),
                                   [&](const Function& f) { return f.name == name; });
  return found == kFunctions.end() ? nullptr : found;
}

Runtime::~Runtime() {
  // Before the meter that they are charged to.
  for (const auto& space : namespaces_) space->attributes.clear();
  namespaces_.clear();
}

NamespaceData* Runtime::make_namespace() {
  namespaces_.push_back(std::make_unique<NamespaceData>());
  namespaces_.back()->charge = Charge(meter_);
  namespaces_.back()->charge.add(sizeof(NamespaceData) + sizeof(void*));
  return namespaces_.back().get();
}

std::vector<const Value*> Args::bind(std::string_view function,
                                     std::initializer_list<std::string_view> parameters,
                                     size_t required) const {
  if (positional.size() > parameters.size()) {
    fail_here("{}() takes at most {} arguments, but {} were given", function, parameters.size(),
              positional.size());
  }
  std::vector<const Value*> bound(parameters.size());
  for (size_t i = 0; i < positional.size(); ++i) bound[i] = &positional[i];
  for (const auto& [name, value] : keywords) {
    const auto* parameter = std::find(parameters.begin(), parameters.end(), name);
    const auto i = static_cast<size_t>(parameter - parameters.begin());
    if (parameter == parameters.end()) fail_here("{}() has no argument {}", function, name);
    if (bound[i] != nullptr) fail_here("{}() got two values for {}", function, name);
    bound[i] = &value;
  }
  for (size_t i = 0; i < required; ++i) {
    if (bound[i] == nullptr) {
      fail_here("{}() needs an argument {}", function, *(parameters.begin() + i));
    }
  }
  return bound;
}

int64_t integer_argument(const Value& value, std::string_view what) {
  if (value.is_undefined()) fail_undefined(value);
  if (!value.is_integer()) {
    fail_here("{}: '{}' object cannot be interpreted as an integer", what, value.type_name());
  }
  return value.integer();
}

const std::string& text_argument(const Value& value, std::string_view what) {
  if (value.is_undefined()) fail_undefined(value);
  if (!value.is_text()) fail_here("{} must be str, not {}", what, value.type_name());
  return value.text();
}

}  // namespace longgen::tokenizer::jinja
