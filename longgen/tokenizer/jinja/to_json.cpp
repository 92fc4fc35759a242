#include <algorithm>
#include <cmath>

#include "longgen/tokenizer/jinja/runtime.h"
#include "longgen/tokenizer/jinja/text.h"

namespace longgen::tokenizer::jinja {
namespace {

class JsonWriter {
 public:
  JsonWriter(Runtime& runtime, const JsonStyle& style, TextBuilder& out)
      : runtime_(runtime), style_(style), out_(out) {}

  void write(const Value& value) {
    runtime_.meter().step();
    if (value.is<None>()) {
      out_.add("null");
    } else if (const bool* truth = value.get<bool>()) {
      out_.add(*truth ? "true" : "false");
    } else if (value.is_integer()) {
      out_.add(fmt::format("{}", value.integer()));
    } else if (value.is_number()) {
      out_.add(number(value.number()));
    } else if (value.is_text()) {
      write_text(value.text());
    } else if (value.is<Value::Dict>()) {
      write_dict(value.dict());
    } else if (value.is<Value::Sequence>() && value.sequence().flavour <= Flavour::kTuple) {
      write_list(value.sequence().items);
    } else {
      fail_here("Object of type {} is not JSON serializable", value.type_name());
    }
  }

 private:
  static std::string number(double value) {
    if (std::isnan(value)) return "NaN";
    if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
    return float_repr(value);
  }

  void write_text(std::string_view text) {
    out_.add("\"");
    while (!text.empty()) {
      const CodePoint c = first_code_point(text);
      write_character(text.substr(0, c.bytes), c.value);
      text.remove_prefix(c.bytes);
    }
    out_.add("\"");
  }

  void write_character(std::string_view one, char32_t c) {
    static constexpr std::string_view kPlain = "\"\\\b\f\n\r\t", kNames = "\"\\bfnrt";
    if (c < 0x80) {
      if (const size_t i = kPlain.find(static_cast<char>(c)); i != kPlain.npos) {
        const char escape[] = {'\\', kNames[i]};
        out_.add({escape, 2});
        return;
      }
    }
    const auto code = static_cast<uint32_t>(c);
    if (c >= 0x20 && (c < 0x7F || !style_.ascii)) {
      out_.add(one);
    } else if (c < 0x10000) {
      out_.add(fmt::format("\\u{:04x}", code));
    } else {
      out_.add(fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + ((code - 0x10000) >> 10),
                           0xDC00 + ((code - 0x10000) & 0x3FF)));
    }
  }

  void new_line() {
    if (!style_.indent) return;
    out_.add("\n");
    for (int i = 0; i < level_; ++i) out_.add(*style_.indent);
  }

  void write_list(const std::vector<Value>& items) {
    if (items.empty()) return out_.add("[]");
    out_.add("[");
    ++level_;
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_.add(style_.item_separator);
      new_line();
      write(items[i]);
    }
    --level_;
    new_line();
    out_.add("]");
  }

  void write_key(const Value& key) {
    if (key.is_text()) return write_text(key.text());
    if (!key.is<None>() && !key.is_number()) {
      fail_here("keys must be str, int, float, bool or None, not {}", key.type_name());
    }
    out_.add("\"");
    write(key);
    out_.add("\"");
  }

  void write_dict(const DictData& dict) {
    if (dict.entries.empty()) return out_.add("{}");
    std::vector<const std::pair<Value, Value>*> entries;
    for (const auto& entry : dict.entries) entries.push_back(&entry);
    if (style_.sort_keys) {
      std::stable_sort(entries.begin(), entries.end(), [&](const auto* a, const auto* b) {
        return less(a->first, b->first, runtime_.meter());
      });
    }
    out_.add("{");
    ++level_;
    for (size_t i = 0; i < entries.size(); ++i) {
      if (i > 0) out_.add(style_.item_separator);
      new_line();
      write_key(entries[i]->first);
      out_.add(style_.key_separator);
      write(entries[i]->second);
    }
    --level_;
    new_line();
    out_.add("}");
  }

  Runtime& runtime_;
  const JsonStyle& style_;
  TextBuilder& out_;
  int level_ = 0;
};

}  // namespace

void append_json(Runtime& runtime, const Value& value, const JsonStyle& style, TextBuilder& out) {
  JsonWriter(runtime, style, out).write(value);
}

}  // namespace longgen::tokenizer::jinja
