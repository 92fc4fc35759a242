// The filters by name, one file a kind.
#pragma once

#include <span>
#include <string_view>

#include "longgen/tokenizer/jinja/runtime.h"

namespace longgen::tokenizer::jinja {

struct NamedFilter {
  std::string_view name;
  Value (*filter)(Runtime&, const Value&, const Args&);
};

// Those that go through the items of a value.
std::span<const NamedFilter> item_filters();

// An argument that switches something on; null where it was not given.
inline bool flag(const Value* value, bool absent = false) {
  return value == nullptr ? absent : value->truthy();
}

}  // namespace longgen::tokenizer::jinja
