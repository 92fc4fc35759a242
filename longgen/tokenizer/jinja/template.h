// A Jinja template of the kind that chat models carry, as Transformers runs it: its sandbox without
// changes to lists and dicts, trim_blocks, lstrip_blocks, the tags break, continue and generation.
// What is outside of that subset is an error that names it.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "longgen/formats/json.h"
#include "longgen/tokenizer/jinja/value.h"

namespace longgen::tokenizer::jinja {

// Deeper nesting than kMaxValueDepth is an Error.
Value from_json(const formats::OrderedJson& json);

// The largest template that is read.
constexpr size_t kMaxTemplateBytes = size_t{1} << 20;

class Template {
 public:
  // Throws Error with `name`, line and column.
  Template(std::string_view source, std::string name);
  ~Template();
  Template(Template&&) noexcept;
  Template& operator=(Template&&) noexcept;

  // May be called from several threads at once. `now` is the local time, as strftime_now shows it.
  // Throws Error with name, line and column.
  std::string render(std::vector<std::pair<std::string, Value>> variables,
                     std::chrono::sys_seconds now, const Limits& limits = {}) const;

 private:
  struct Tree;
  std::string name_;
  std::unique_ptr<const Tree> tree_;
};

}  // namespace longgen::tokenizer::jinja
