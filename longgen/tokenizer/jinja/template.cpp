#include "longgen/tokenizer/jinja/template.h"

#include "longgen/tokenizer/jinja/interpreter.h"
#include "longgen/tokenizer/jinja/parser.h"

namespace longgen::tokenizer::jinja {
namespace {

[[noreturn]] void fail_in(const std::string& name, Place place, const std::string& message) {
  fail("{}, line {}, column {}: {}", name, place.line, place.column, message);
}

Value value_of(const formats::OrderedJson& json, int depth) {
  require(depth < kMaxValueDepth, "JSON nested deeper than {} levels", kMaxValueDepth);
  switch (json.type()) {
    case formats::OrderedJson::value_t::boolean:
      return Value(json.get<bool>());
    case formats::OrderedJson::value_t::number_integer:
    case formats::OrderedJson::value_t::number_unsigned:
      if (json.is_number_unsigned() && json.get<uint64_t>() > uint64_t{INT64_MAX}) {
        fail("the number {} is beyond 64 bits", json.get<uint64_t>());
      }
      return Value(json.get<int64_t>());
    case formats::OrderedJson::value_t::number_float:
      return Value(json.get<double>());
    case formats::OrderedJson::value_t::string:
      return Value::text(json.get<std::string>());
    case formats::OrderedJson::value_t::array: {
      auto items = std::make_shared<SequenceData>(SequenceData{Flavour::kList, {}, 0, Charge()});
      for (const auto& item : json) {
        items->items.push_back(value_of(item, depth + 1));
        items->depth = std::max(items->depth, items->items.back().depth());
      }
      ++items->depth;
      return Value(Value::Variant(Value::Sequence(std::move(items))));
    }
    case formats::OrderedJson::value_t::object: {
      DictBuilder dict;
      for (const auto& [key, value] : json.items()) {
        dict.set(Value::text(key), value_of(value, depth + 1));
      }
      return dict.finish();
    }
    default:
      return Value(None{});
  }
}

}  // namespace

struct Template::Tree {
  Block block;
};

Value from_json(const formats::OrderedJson& json) { return value_of(json, 0); }

Template::Template(std::string_view source, std::string name) : name_(std::move(name)) {
  require(source.size() <= kMaxTemplateBytes, "{}: a template of {} bytes; at most {} are read",
          name_, source.size(), kMaxTemplateBytes);
  try {
    tree_ = std::make_unique<const Tree>(Tree{parse_template(source)});
  } catch (const SyntaxError& error) {
    fail_in(name_, error.place, error.what());
  }
}

Template::~Template() = default;
Template::Template(Template&&) noexcept = default;
Template& Template::operator=(Template&&) noexcept = default;

std::string Template::render(std::vector<std::pair<std::string, Value>> variables,
                             std::chrono::sys_seconds now, const Limits& limits) const {
  Scope given;
  for (auto& variable : variables) {
    given.names.emplace_back(variable.first, std::move(variable.second));
  }
  Interpreter interpreter(tree_->block, given, limits, now);
  try {
    return interpreter.render();
  } catch (const Failure& failure) {
    fail_in(name_, interpreter.place(), failure.what());
  }
}

}  // namespace longgen::tokenizer::jinja
