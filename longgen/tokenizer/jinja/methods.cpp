// Methods of str, list and dict.
#include <algorithm>
#include <span>

#include "longgen/tokenizer/jinja/runtime.h"
#include "longgen/tokenizer/jinja/text.h"

namespace longgen::tokenizer::jinja {
namespace {

using Names = std::span<const std::string_view>;

bool among(Names names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

constexpr std::string_view kTextMethods[] = {
    "capitalize", "count",        "endswith",     "find",    "format",  "index",  "isalnum",
    "isalpha",    "isdigit",      "islower",      "isspace", "isupper", "join",   "lower",
    "lstrip",     "removeprefix", "removesuffix", "replace", "rfind",   "rsplit", "rstrip",
    "split",      "splitlines",   "startswith",   "strip",   "title",   "upper"};
constexpr std::string_view kOtherTextMethods[] = {
    "casefold", "center",     "encode",       "expandtabs", "format_map",
    "isascii",  "isdecimal",  "isidentifier", "isnumeric",  "isprintable",
    "istitle",  "ljust",      "maketrans",    "partition",  "rindex",
    "rjust",    "rpartition", "swapcase",     "translate",  "zfill"};
constexpr std::string_view kListMethods[] = {"count", "index"};
constexpr std::string_view kListChanges[] = {"append", "clear",  "extend",  "insert",
                                             "pop",    "remove", "reverse", "sort"};
constexpr std::string_view kDictMethods[] = {"copy", "get", "items", "keys", "values"};
constexpr std::string_view kDictChanges[] = {"clear", "pop", "popitem", "setdefault", "update"};

std::optional<std::string_view> optional_text(const Value* value, std::string_view what) {
  if (value == nullptr || value->is<None>()) return std::nullopt;
  return text_argument(*value, what);
}

Value replace_text(Runtime& runtime, std::string_view text, std::string_view old,
                   std::string_view with, int64_t limit) {
  TextBuilder out(runtime.meter());
  runtime.meter().step_bytes(text.size());
  while (limit != 0) {
    // The empty text stands before every character and at the end.
    const size_t at = find_text(text, old);
    if (at == text.npos) break;
    runtime.meter().step();
    out.add(text.substr(0, at));
    out.add(with);
    text.remove_prefix(at + old.size());
    --limit;
    if (old.empty()) {
      if (text.empty()) break;
      const size_t one = first_code_point(text).bytes;
      out.add(text.substr(0, one));
      text.remove_prefix(one);
    }
  }
  out.add(text);
  return out.finish();
}

Value split_text(Runtime& runtime, const Value& self, const std::string& name, const Args& args) {
  const auto a = args.bind(name, {"sep", "maxsplit"}, 0);
  const auto separator = optional_text(a[0], "the separator");
  if (separator && separator->empty()) fail_here("empty separator");
  const int64_t limit = a[1] == nullptr ? -1 : integer_argument(*a[1], "maxsplit");
  runtime.meter().step_bytes(self.text().size());
  // As many parts as there could be, before they are made.
  Charge charge(runtime.meter());
  charge.add((self.text().size() / (separator ? separator->size() : 2) + 1) *
             sizeof(std::string_view) / 4);
  SequenceBuilder out(runtime.meter());
  const auto parts = name == "split" ? split(self.text(), separator, limit)
                                     : split_right(self.text(), separator, limit);
  for (const std::string_view part : parts) out.add(runtime.text(part, self.is_markup()));
  return out.finish();
}

Value strip_text(Runtime& runtime, const Value& self, const std::string& name, const Args& args) {
  const auto a = args.bind(name, {"chars"}, 0);
  const auto characters = optional_text(a[0], "the characters to strip");
  runtime.meter().step_bytes(self.text().size() * (characters ? characters->size() + 1 : 1));
  return runtime.text(strip(self.text(), characters, name != "rstrip", name != "lstrip"),
                      self.is_markup());
}

// startswith and endswith, of a text or of any of a tuple.
bool has_affix(Runtime& runtime, std::string_view text, const std::string& name, const Args& args) {
  const auto a = args.bind(name, {"affix"}, 1);
  const auto matches = [&](const Value& affix) {
    runtime.meter().step();
    const std::string& wanted = text_argument(affix, "the argument of " + name);
    return name == "startswith" ? text.starts_with(wanted) : text.ends_with(wanted);
  };
  if (a[0]->is<Value::Sequence>() && a[0]->sequence().flavour == Flavour::kTuple) {
    const auto& items = a[0]->sequence().items;
    return std::any_of(items.begin(), items.end(), matches);
  }
  return matches(*a[0]);
}

int64_t count_text(std::string_view text, std::string_view wanted) {
  if (wanted.empty()) return count_code_points(text) + 1;
  int64_t count = 0;
  while (true) {
    const size_t at = find_text(text, wanted);
    if (at == text.npos) return count;
    text.remove_prefix(at + wanted.size());
    ++count;
  }
}

Value locate(Runtime& runtime, std::string_view text, const std::string& name, const Args& args) {
  const auto a = args.bind(name, {"sub"}, 1);
  const std::string& wanted = text_argument(*a[0], "the text to find");
  runtime.meter().step_bytes(text.size());
  if (name == "count") return Value(count_text(text, wanted));
  const size_t at = name == "rfind" ? rfind_text(text, wanted) : find_text(text, wanted);
  if (at == text.npos && name == "index") fail_here("substring not found");
  return Value(at == text.npos ? int64_t{-1} : count_code_points(text.substr(0, at)));
}

Value join_texts(Runtime& runtime, const Value& self, const Args& args) {
  const auto a = args.bind("join", {"iterable"}, 1);
  TextBuilder out(runtime.meter());
  const Value items = iterate(*a[0], runtime.meter());
  for (size_t i = 0; i < items.sequence().items.size(); ++i) {
    const Value& item = items.sequence().items[i];
    if (!item.is_text()) {
      fail_here("sequence item {}: expected str instance, {} found", i, item.type_name());
    }
    if (i > 0) out.add(self.text());
    out.add(item.text());
  }
  return out.finish();
}

// isalpha and its kin: true when every character fits, and there is one.
bool all_characters(std::string_view text, const std::string& name) {
  if (text.empty()) return false;
  bool cased = false;
  while (!text.empty()) {
    const CodePoint c = first_code_point(text);
    text.remove_prefix(c.bytes);
    cased = cased || is_upper(c.value) || is_lower(c.value);
    if (name == "isupper" && is_lower(c.value)) return false;
    if (name == "islower" && is_upper(c.value)) return false;
    if (name == "isalpha" && !is_alpha(c.value)) return false;
    if (name == "isdigit" && !is_digit(c.value)) return false;
    if (name == "isalnum" && !is_alpha(c.value) && !is_digit(c.value)) return false;
    if (name == "isspace" && !is_space(c.value)) return false;
  }
  return cased || (name != "isupper" && name != "islower");
}

Value split_text_lines(Runtime& runtime, const Value& self, const Args& args) {
  const auto a = args.bind("splitlines", {"keepends"}, 0);
  runtime.meter().step_bytes(self.text().size());
  SequenceBuilder out(runtime.meter());
  for (const std::string_view line : split_lines(self.text(), a[0] != nullptr && a[0]->truthy())) {
    out.add(runtime.text(line, self.is_markup()));
  }
  return out.finish();
}

Value call_text_method(Runtime& runtime, const Value& self, const std::string& name,
                       const Args& args) {
  const std::string& text = self.text();
  if (name == "split" || name == "rsplit") return split_text(runtime, self, name, args);
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    return strip_text(runtime, self, name, args);
  }
  if (name == "startswith" || name == "endswith") {
    return Value(has_affix(runtime, text, name, args));
  }
  if (name == "find" || name == "rfind" || name == "index" || name == "count") {
    return locate(runtime, text, name, args);
  }
  if (name == "format") {
    if (self.is_markup()) fail_here("format of text from | safe is not supported");
    return format_braces(runtime, text, args);
  }
  if (name == "join") return join_texts(runtime, self, args);
  if (name == "splitlines") return split_text_lines(runtime, self, args);
  if (name == "replace") {
    const auto a = args.bind(name, {"old", "new", "count"}, 2);
    return replace_text(runtime, text, text_argument(*a[0], "the text to replace"),
                        text_argument(*a[1], "the replacement"),
                        a[2] == nullptr ? -1 : integer_argument(*a[2], "count"));
  }
  if (name == "removeprefix" || name == "removesuffix") {
    const auto a = args.bind(name, {"affix"}, 1);
    const std::string& affix = text_argument(*a[0], "the argument of " + name);
    std::string_view rest = text;
    if (name == "removeprefix" && rest.starts_with(affix)) rest.remove_prefix(affix.size());
    if (name == "removesuffix" && rest.ends_with(affix)) rest.remove_suffix(affix.size());
    return runtime.text(rest, self.is_markup());
  }
  args.bind(name, {}, 0);
  runtime.meter().step_bytes(4 * text.size());
  if (name == "upper") return runtime.text(to_upper(text), self.is_markup());
  if (name == "lower") return runtime.text(to_lower(text), self.is_markup());
  if (name == "title") return runtime.text(to_title(text), self.is_markup());
  if (name == "capitalize") return runtime.text(capitalize(text), self.is_markup());
  return Value(all_characters(text, name));
}

Value call_dict_method(Runtime& runtime, const Value& self, const std::string& name,
                       const Args& args) {
  const DictData& dict = self.dict();
  if (name == "get") {
    const auto a = args.bind(name, {"key", "default"}, 1);
    const Value* found = dict.find(*a[0], runtime.meter());
    if (found != nullptr) return *found;
    return a[1] == nullptr ? Value(None{}) : *a[1];
  }
  args.bind(name, {}, 0);
  if (name == "copy") return self;
  SequenceBuilder out(runtime.meter());
  for (const auto& [key, value] : dict.entries) {
    if (name == "keys") {
      out.add(key);
    } else if (name == "values") {
      out.add(value);
    } else {
      SequenceBuilder pair(runtime.meter());
      pair.add(key);
      pair.add(value);
      out.add(pair.finish(Flavour::kTuple));
    }
  }
  return out.finish(Flavour::kView);
}

Value call_list_method(Runtime& runtime, const Value& self, const std::string& name,
                       const Args& args) {
  const auto a = args.bind(name, {"value"}, 1);
  int64_t count = 0;
  const auto& items = self.sequence().items;
  for (size_t i = 0; i < items.size(); ++i) {
    if (!equal(items[i], *a[0], runtime.meter())) continue;
    if (name == "index") return Value(static_cast<int64_t>(i));
    ++count;
  }
  if (name == "index") fail_here("the value is not in the list");
  return Value(count);
}

}  // namespace

MethodKind find_method(const Value& value, std::string_view name) {
  const auto kind = [&](Names supported, Names others, Names changes) {
    const bool known = among(supported, name), changing = among(changes, name);
    return MethodKind{known || changing || among(others, name), known, changing};
  };
  if (value.is_text()) return kind(kTextMethods, kOtherTextMethods, {});
  if (value.is<Value::Dict>()) {
    static constexpr std::string_view kOthers[] = {"fromkeys"};
    return kind(kDictMethods, kOthers, kDictChanges);
  }
  if (value.is<Value::Loop>()) {
    static constexpr std::string_view kLoop[] = {"cycle"};
    return kind(kLoop, {}, {});
  }
  if (!value.is<Value::Sequence>()) return {};
  static constexpr std::string_view kListOthers[] = {"copy"};
  switch (value.sequence().flavour) {
    case Flavour::kList:
      return kind(kListMethods, kListOthers, kListChanges);
    case Flavour::kTuple:
    case Flavour::kRange:
      return kind(kListMethods, {}, {});
    default:
      return {};
  }
}

Value call_method(Runtime& runtime, const Value& self, const std::string& name, const Args& args) {
  const MethodKind kind = find_method(self, name);
  if (kind.changes) {
    fail_here(
        "{}.{} would change a value that the template was given; lists and dicts of a chat "
        "template cannot be changed",
        self.type_name(), name);
  }
  if (!kind.supported) fail_here("the method {}.{} is not supported", self.type_name(), name);
  runtime.meter().step();
  if (self.is_text()) return call_text_method(runtime, self, name, args);
  if (self.is<Value::Dict>()) return call_dict_method(runtime, self, name, args);
  if (const auto* loop = self.get<Value::Loop>()) {
    if (args.positional.empty()) fail_here("no items for cycling given");
    return args.positional[static_cast<size_t>((*loop)->index0) % args.positional.size()];
  }
  return call_list_method(runtime, self, name, args);
}

}  // namespace longgen::tokenizer::jinja
