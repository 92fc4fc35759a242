// Expressions.
#include "longgen/tokenizer/jinja/interpreter.h"

namespace longgen::tokenizer::jinja {

Value Interpreter::evaluate(const Expr& expr, Scope& scope) {
  meter().step();
  place_ = expr.place;
  switch (expr.kind) {
    case ExprKind::kConstant:
      return expr.constant;
    case ExprKind::kName:
      return evaluate_name(expr, scope);
    case ExprKind::kConditional:
      return evaluate_conditional(expr, scope);
    case ExprKind::kCall:
      return evaluate_call(expr, scope);
    case ExprKind::kFilter:
      return evaluate_filter(expr, scope);
    case ExprKind::kTest:
      return evaluate_test(expr, scope);
    case ExprKind::kConcat:
      return evaluate_concat(expr, scope);
    case ExprKind::kCompare:
      return evaluate_compare(expr, scope);
    case ExprKind::kList:
    case ExprKind::kTuple:
      return evaluate_sequence(expr, scope);
    case ExprKind::kDict:
      return evaluate_dict(expr, scope);
    case ExprKind::kSlice:
      return evaluate_slice(expr, scope);
    default:
      break;
  }
  const Value left = evaluate(*expr.parts[0], scope);
  place_ = expr.place;
  switch (expr.kind) {
    case ExprKind::kAttribute:
      return get_attribute(*this, left, expr.name);
    case ExprKind::kNot:
      return Value(!left.truthy());
    case ExprKind::kNegative:
      return negate(left);
    case ExprKind::kPositive:
      return negate(negate(left));
    case ExprKind::kAnd:
      return left.truthy() ? evaluate(*expr.parts[1], scope) : left;
    case ExprKind::kOr:
      return left.truthy() ? left : evaluate(*expr.parts[1], scope);
    default:
      break;
  }
  const Value right = evaluate(*expr.parts[1], scope);
  place_ = expr.place;
  if (expr.kind == ExprKind::kItem) return get_item(*this, left, right);
  return arithmetic(*this, expr.name, left, right);
}

Value Interpreter::evaluate_name(const Expr& expr, const Scope& scope) {
  if (const Value* value = scope.find(expr.name, meter())) return *value;
  if (const Function* function = find_function(expr.name)) {
    return Value(Value::Variant(function));
  }
  return Value::undefined(fmt::format("'{}' is undefined", expr.name));
}

Value Interpreter::evaluate_conditional(const Expr& expr, Scope& scope) {
  if (evaluate(*expr.parts[0], scope).truthy()) return evaluate(*expr.parts[1], scope);
  if (expr.parts[2] != nullptr) return evaluate(*expr.parts[2], scope);
  return Value::undefined("the inline if-expression is false and has no else");
}

Value Interpreter::evaluate_sequence(const Expr& expr, Scope& scope) {
  SequenceBuilder items(meter());
  for (const ExprPtr& part : expr.parts) items.add(evaluate(*part, scope));
  place_ = expr.place;
  return items.finish(expr.kind == ExprKind::kList ? Flavour::kList : Flavour::kTuple);
}

Value Interpreter::evaluate_dict(const Expr& expr, Scope& scope) {
  DictBuilder dict(meter());
  for (size_t i = 0; i < expr.parts.size(); i += 2) {
    Value key = evaluate(*expr.parts[i], scope);
    Value value = evaluate(*expr.parts[i + 1], scope);
    place_ = expr.place;
    dict.set(std::move(key), std::move(value));
  }
  return dict.finish();
}

Value Interpreter::evaluate_slice(const Expr& expr, Scope& scope) {
  const Value value = evaluate(*expr.parts[0], scope);
  Value bounds[3];
  const Value* given[3] = {};
  for (size_t i = 0; i < 3; ++i) {
    if (expr.parts[i + 1] == nullptr) continue;
    bounds[i] = evaluate(*expr.parts[i + 1], scope);
    given[i] = &bounds[i];
  }
  place_ = expr.place;
  return get_slice(*this, value, given[0], given[1], given[2]);
}

Args Interpreter::evaluate_arguments(const Expr& expr, Scope& scope) {
  Args args;
  for (size_t i = 1; i < expr.parts.size(); ++i) {
    args.positional.push_back(evaluate(*expr.parts[i], scope));
  }
  for (const auto& [name, value] : expr.keywords) {
    args.keywords.emplace_back(name, evaluate(*value, scope));
  }
  place_ = expr.place;
  return args;
}

Value Interpreter::evaluate_call(const Expr& expr, Scope& scope) {
  const Value callee = evaluate(*expr.parts[0], scope);
  const Args args = evaluate_arguments(expr, scope);
  return call(callee, args);
}

Value Interpreter::evaluate_filter(const Expr& expr, Scope& scope, const Value* text) {
  // The innermost filter of a block applies to the block's text.
  Value value;
  if (expr.parts[0] == nullptr) {
    value = *text;
  } else if (text != nullptr) {
    value = evaluate_filter(*expr.parts[0], scope, text);
  } else {
    value = evaluate(*expr.parts[0], scope);
  }
  const Args args = evaluate_arguments(expr, scope);
  return apply_filter(*this, expr.name, value, args);
}

Value Interpreter::evaluate_test(const Expr& expr, Scope& scope) {
  const Value value = evaluate(*expr.parts[0], scope);
  const Args args = evaluate_arguments(expr, scope);
  return Value(apply_test(*this, expr.name, value, args));
}

Value Interpreter::evaluate_concat(const Expr& expr, Scope& scope) {
  TextBuilder text(meter());
  for (const ExprPtr& part : expr.parts) append_str(evaluate(*part, scope), text);
  return text.finish();
}

Value Interpreter::evaluate_compare(const Expr& expr, Scope& scope) {
  Value left = evaluate(*expr.parts[0], scope);
  for (size_t i = 0; i < expr.operators.size(); ++i) {
    Value right = evaluate(*expr.parts[i + 1], scope);
    place_ = expr.place;
    if (!compare(*this, expr.operators[i], left, right)) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

}  // namespace longgen::tokenizer::jinja
