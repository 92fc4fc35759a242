// The two ways of Python to put values into text: "%s" % value and "{}".format(value).
#include <cmath>
#include <cstdio>

#include "longgen/tokenizer/jinja/runtime.h"
#include "longgen/tokenizer/jinja/text.h"

namespace longgen::tokenizer::jinja {
namespace {

constexpr int64_t kMaxWidth = 1000;

// "%-08.3f": flags, width, precision, kind.
struct Directive {
  bool left = false, zero = false, plus = false, space = false, alternative = false;
  int64_t width = 0, precision = -1;
  char kind = 's';
};

int64_t read_number(std::string_view text, size_t& i) {
  int64_t value = 0;
  for (; i < text.size() && text[i] >= '0' && text[i] <= '9'; ++i) {
    value = value * 10 + (text[i] - '0');
    if (value > kMaxWidth) fail_here("a width or precision of more than {} in a format", kMaxWidth);
  }
  return value;
}

// Reads behind "%"; `i` is left behind the directive.
Directive read_directive(std::string_view format, size_t& i) {
  Directive d;
  for (; i < format.size(); ++i) {
    if (format[i] == '-') {
      d.left = true;
    } else if (format[i] == '0') {
      d.zero = true;
    } else if (format[i] == '+') {
      d.plus = true;
    } else if (format[i] == ' ') {
      d.space = true;
    } else if (format[i] == '#') {
      d.alternative = true;
    } else {
      break;
    }
  }
  d.width = read_number(format, i);
  if (i < format.size() && format[i] == '.') {
    ++i;
    d.precision = read_number(format, i);
  }
  if (i >= format.size()) fail_here("incomplete format");
  d.kind = format[i++];
  return d;
}

void add_padded(TextBuilder& out, std::string_view text, const Directive& d, bool numeric) {
  const int64_t missing = std::max<int64_t>(d.width - count_code_points(text), 0);
  const std::string fill(static_cast<size_t>(missing), d.zero && numeric && !d.left ? '0' : ' ');
  if (!d.left && numeric && d.zero && !text.empty() && (text[0] == '-' || text[0] == '+')) {
    out.add(text.substr(0, 1));
    text.remove_prefix(1);
  }
  if (!d.left) out.add(fill);
  out.add(text);
  if (d.left) out.add(fill);
}

std::string with_sign(std::string text, const Directive& d) {
  if (text.starts_with('-')) return text;
  return (d.plus ? "+" : d.space ? " " : "") + text;
}

std::string format_integer(const Value& value, const Directive& d) {
  if (value.is_undefined()) fail_undefined(value);
  if (!value.is_number()) {
    fail_here("%{} format: a real number is required, not {}", d.kind, value.type_name());
  }
  int64_t number = 0;
  if (value.is_integer()) {
    number = value.integer();
  } else {
    if (d.kind != 'd' && d.kind != 'i') fail_here("%{} format: an integer is required", d.kind);
    const double truncated = std::trunc(value.number());
    if (!(std::abs(truncated) < 9e18)) fail_here("integers beyond 64 bits are not supported");
    number = static_cast<int64_t>(truncated);
  }
  const uint64_t magnitude =
      number < 0 ? 0 - static_cast<uint64_t>(number) : static_cast<uint64_t>(number);
  std::string digits = d.kind == 'x'   ? fmt::format("{:x}", magnitude)
                       : d.kind == 'X' ? fmt::format("{:X}", magnitude)
                       : d.kind == 'o' ? fmt::format("{:o}", magnitude)
                                       : fmt::format("{}", magnitude);
  if (d.precision > static_cast<int64_t>(digits.size())) {
    digits.insert(0, static_cast<size_t>(d.precision) - digits.size(), '0');
  }
  return with_sign((number < 0 ? "-" : "") + digits, d);
}

std::string format_float(const Value& value, const Directive& d) {
  if (value.is_undefined()) fail_undefined(value);
  if (!value.is_number()) fail_here("must be real number, not {}", value.type_name());
  const char format[] = {'%', '.', '*', d.kind, '\0'};
  // 309 digits, a point, and kMaxWidth behind it.
  char buffer[1600];
  std::snprintf(buffer, sizeof(buffer), format, static_cast<int>(d.precision < 0 ? 6 : d.precision),
                value.number());
  return with_sign(buffer, d);
}

void add_formatted(Runtime& runtime, TextBuilder& out, const Value& value, const Directive& d) {
  if (d.alternative) fail_here("the flag # in a format is not supported");
  switch (d.kind) {
    case 's':
    case 'r': {
      TextBuilder text(runtime.meter());
      if (d.kind == 's') {
        append_str(value, text);
      } else {
        append_repr(value, text);
      }
      std::string_view shown = text.text();
      if (d.precision >= 0) shown = shown.substr(0, code_point_offset(shown, d.precision));
      add_padded(out, shown, d, false);
      return;
    }
    case 'd':
    case 'i':
    case 'u':
    case 'x':
    case 'X':
    case 'o':
      add_padded(out, format_integer(value, d), d, true);
      return;
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G':
      add_padded(out, format_float(value, d), d, true);
      return;
    default:
      fail_here("the format %{} is not supported", string_repr(std::string(1, d.kind)));
  }
}

// The value that "{...}" names; automatic numbering counts in `automatic`.
const Value& find_field(std::string_view field, const Args& args, size_t& automatic) {
  size_t index = 0;
  if (field.empty()) {
    index = automatic++;
  } else if (const auto number = parse_integer(field, 10); number && *number >= 0) {
    index = static_cast<size_t>(*number);
  } else {
    for (const auto& [name, value] : args.keywords) {
      if (name == field) return value;
    }
    fail_here("format() has no value for {{{}}}", field);
  }
  if (index >= args.positional.size()) {
    fail_here("format() has no value for replacement {}", index);
  }
  return args.positional[index];
}

}  // namespace

Value format_percent(Runtime& runtime, const Value& format, const Value& values) {
  if (format.is_markup()) fail_here("% of text from | safe is not supported");
  const bool tuple = values.is<Value::Sequence>() && values.sequence().flavour == Flavour::kTuple;
  size_t used = 0;
  const auto next_value = [&]() -> const Value& {
    if (used >= (tuple ? values.sequence().items.size() : 1)) {
      fail_here("not enough arguments for format string");
    }
    return tuple ? values.sequence().items[used++] : (++used, values);
  };
  TextBuilder out(runtime.meter());
  const std::string_view text = format.text();
  for (size_t i = 0; i < text.size();) {
    const size_t percent = std::min(text.find('%', i), text.size());
    out.add(text.substr(i, percent - i));
    i = percent + 1;
    if (percent == text.size()) break;
    if (i < text.size() && text[i] == '(') fail_here("%(name) formats are not supported");
    const Directive directive = read_directive(text, i);
    if (directive.kind == '%') {
      out.add("%");
    } else {
      add_formatted(runtime, out, next_value(), directive);
    }
  }
  const bool may_be_left = values.is<Value::Dict>() || (values.is<Value::Sequence>() && !tuple);
  if (used < (tuple ? values.sequence().items.size() : 1) && !may_be_left) {
    fail_here("not all arguments converted during string formatting");
  }
  return out.finish();
}

Value format_braces(Runtime& runtime, const std::string& format, const Args& args) {
  TextBuilder out(runtime.meter());
  const std::string_view text = format;
  size_t automatic = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t brace = std::min(text.find_first_of("{}", i), text.size());
    out.add(text.substr(i, brace - i));
    i = brace + 1;
    if (brace == text.size()) break;
    if (i < text.size() && text[i] == text[brace]) {  // doubled: one brace
      out.add(text.substr(i++, 1));
      continue;
    }
    if (text[brace] == '}') fail_here("single '}}' in a format");
    const size_t close = text.find('}', i);
    if (close == text.npos) fail_here("'{{' without '}}' in a format");
    const std::string_view field = text.substr(i, close - i);
    if (field.find_first_of(":!.[{") != field.npos) {
      fail_here("a format with {{{}}} is not supported; only {{}}, {{0}} and {{name}} are", field);
    }
    append_str(find_field(field, args, automatic), out);
    i = close + 1;
  }
  return out.finish();
}

}  // namespace longgen::tokenizer::jinja
