// Runs a parsed template.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "longgen/tokenizer/jinja/ast.h"
#include "longgen/tokenizer/jinja/runtime.h"

namespace longgen::tokenizer::jinja {

// Names and what they stand for; those of `parent` are seen through it.
struct Scope {
  const Scope* parent = nullptr;
  std::vector<std::pair<std::string_view, Value>> names = {};

  const Value* find(std::string_view name, Meter& meter) const;
  void set(std::string_view name, Value value, Meter& meter);
};

class Interpreter : public Runtime {
 public:
  // The tree and the variables outlive it.
  Interpreter(const Block& block, const Scope& variables, const Limits& limits,
              std::chrono::sys_seconds now)
      : Runtime(limits, now), block_(block), root_{.parent = &variables} {}

  // Throws Failure; place() is where.
  std::string render();
  Place place() const { return place_; }

  Value call(const Value& callee, const Args& args) override;

 private:
  enum class Flow : uint8_t { kNext, kBreak, kContinue };
  class Deeper;

  Flow run(const Block& block, Scope& scope, TextBuilder& out);
  Flow run_one(const Stmt& stmt, Scope& scope, TextBuilder& out);
  Flow run_if(const Stmt& stmt, Scope& scope, TextBuilder& out);
  Flow run_for(const Stmt& stmt, Scope& scope, TextBuilder& out);
  Flow run_with(const Stmt& stmt, Scope& scope, TextBuilder& out);
  // The body's text, through the filters of stmt.value.
  Value capture(const Stmt& stmt, Scope& scope);
  Value select(const Stmt& stmt, const Value& items, Scope& scope);
  void assign(const Target& target, const Value& value, Scope& scope);
  Value call_macro(const MacroNode& macro, const Args& args);

  Value evaluate(const Expr& expr, Scope& scope);
  Value evaluate_name(const Expr& expr, const Scope& scope);
  Value evaluate_sequence(const Expr& expr, Scope& scope);
  Value evaluate_dict(const Expr& expr, Scope& scope);
  Value evaluate_slice(const Expr& expr, Scope& scope);
  Value evaluate_call(const Expr& expr, Scope& scope);
  Value evaluate_filter(const Expr& expr, Scope& scope, const Value* text = nullptr);
  Value evaluate_test(const Expr& expr, Scope& scope);
  Value evaluate_concat(const Expr& expr, Scope& scope);
  Value evaluate_compare(const Expr& expr, Scope& scope);
  Value evaluate_conditional(const Expr& expr, Scope& scope);
  Args evaluate_arguments(const Expr& expr, Scope& scope);

  const Block& block_;
  Scope root_;
  Place place_;
  int depth_ = 0;
};

}  // namespace longgen::tokenizer::jinja
