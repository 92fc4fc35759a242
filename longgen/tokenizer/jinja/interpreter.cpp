#include "longgen/tokenizer/jinja/interpreter.h"

#include <algorithm>

namespace longgen::tokenizer::jinja {

const Value* Scope::find(std::string_view name, Meter& meter) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->parent) {
    meter.step_items(scope->names.size());
    for (const auto& [known, value] : scope->names) {
      if (known == name) return &value;
    }
  }
  return nullptr;
}

void Scope::set(std::string_view name, Value value, Meter& meter) {
  meter.step_items(names.size());
  for (auto& [known, present] : names) {
    if (known == name) {
      present = std::move(value);
      return;
    }
  }
  names.emplace_back(name, std::move(value));
}

class Interpreter::Deeper {
 public:
  explicit Deeper(Interpreter& interpreter) : interpreter_(interpreter) {
    interpreter.meter().step();
    if (interpreter.depth_ >= interpreter.meter().limits().depth) {
      fail_here("the template calls itself too deep");
    }
    ++interpreter_.depth_;
  }
  ~Deeper() { --interpreter_.depth_; }

 private:
  Interpreter& interpreter_;
};

std::string Interpreter::render() {
  TextBuilder out(meter());
  run(block_, root_, out);
  std::string text = std::move(out).take();
  // Values go before the meter does.
  root_.names.clear();
  return text;
}

Interpreter::Flow Interpreter::run(const Block& block, Scope& scope, TextBuilder& out) {
  const Deeper deeper(*this);
  for (const auto& stmt : block) {
    const Flow flow = run_one(*stmt, scope, out);
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::run_one(const Stmt& stmt, Scope& scope, TextBuilder& out) {
  meter().step();
  place_ = stmt.place;
  switch (stmt.kind) {
    case StmtKind::kText:
      out.add(stmt.text);
      return Flow::kNext;
    case StmtKind::kOutput: {
      const Value value = evaluate(*stmt.value, scope);
      place_ = stmt.place;
      append_str(value, out);
      return Flow::kNext;
    }
    case StmtKind::kIf:
      return run_if(stmt, scope, out);
    case StmtKind::kFor:
      return run_for(stmt, scope, out);
    case StmtKind::kSet: {
      const Value value = evaluate(*stmt.value, scope);
      place_ = stmt.place;
      assign(stmt.target, value, scope);
      return Flow::kNext;
    }
    case StmtKind::kSetBlock:
      assign(stmt.target, capture(stmt, scope), scope);
      return Flow::kNext;
    case StmtKind::kFilter:
      append_str(capture(stmt, scope), out);
      return Flow::kNext;
    case StmtKind::kWith:
      return run_with(stmt, scope, out);
    case StmtKind::kScope: {
      Scope inner{.parent = &scope};
      return run(stmt.body, inner, out);
    }
    case StmtKind::kMacro:
      scope.set(stmt.macro->name, Value(Value::Variant(stmt.macro.get())), meter());
      return Flow::kNext;
    case StmtKind::kBreak:
      return Flow::kBreak;
    case StmtKind::kContinue:
      break;
  }
  return Flow::kContinue;
}

Interpreter::Flow Interpreter::run_if(const Stmt& stmt, Scope& scope, TextBuilder& out) {
  for (const auto& [condition, body] : stmt.branches) {
    if (evaluate(*condition, scope).truthy()) return run(body, scope, out);
  }
  return run(stmt.otherwise, scope, out);
}

// The items that the loop's condition lets through.
Value Interpreter::select(const Stmt& stmt, const Value& items, Scope& scope) {
  SequenceBuilder selected(meter());
  for (const Value& item : items.sequence().items) {
    Scope inner{.parent = &scope};
    assign(stmt.target, item, inner);
    if (evaluate(*stmt.condition, inner).truthy()) selected.add(item);
  }
  return selected.finish();
}

Interpreter::Flow Interpreter::run_for(const Stmt& stmt, Scope& scope, TextBuilder& out) {
  Value items = evaluate(*stmt.value, scope);
  place_ = stmt.place;
  items = iterate(items, meter());
  if (stmt.condition != nullptr) items = select(stmt, items, scope);
  if (items.depth() + 1 >= kMaxValueDepth) fail_here("values nested too deep");
  const auto loop = std::make_shared<LoopData>();
  loop->items = items;
  // As Jinja has it: a round left by break or continue does not keep the else part from running.
  bool completed = false;
  for (const Value& item : items.sequence().items) {
    Scope inner{.parent = &scope};
    inner.set("loop", Value(Value::Variant(loop)), meter());
    assign(stmt.target, item, inner);
    const Flow flow = run(stmt.body, inner, out);
    if (flow == Flow::kBreak) break;
    completed = completed || flow == Flow::kNext;
    ++loop->index0;
  }
  if (!completed) {
    Scope inner{.parent = &scope};
    return run(stmt.otherwise, inner, out);
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::run_with(const Stmt& stmt, Scope& scope, TextBuilder& out) {
  Scope inner{.parent = &scope};
  for (const auto& [target, value] : stmt.assignments) {
    assign(target, evaluate(*value, scope), inner);
  }
  return run(stmt.body, inner, out);
}

Value Interpreter::capture(const Stmt& stmt, Scope& scope) {
  TextBuilder text(meter());
  Scope inner{.parent = &scope};
  run(stmt.body, inner, text);
  place_ = stmt.place;
  const Value value = text.finish();
  return stmt.value == nullptr ? value : evaluate_filter(*stmt.value, scope, &value);
}

void Interpreter::assign(const Target& target, const Value& value, Scope& scope) {
  if (!target.tuple.empty()) {
    const Value items = iterate(value, meter());
    const auto& list = items.sequence().items;
    if (list.size() != target.tuple.size()) {
      fail_here("{} values for {} names", list.size(), target.tuple.size());
    }
    for (size_t i = 0; i < list.size(); ++i) assign(target.tuple[i], list[i], scope);
    return;
  }
  if (target.attribute.empty()) {
    scope.set(target.name, value, meter());
    return;
  }
  const Value* found = scope.find(target.name, meter());
  if (found == nullptr || !found->is<NamespaceData*>()) {
    fail_here("cannot assign {}.{}: {} is not a namespace", target.name, target.attribute,
              target.name);
  }
  if (target.attribute.starts_with('_')) {
    fail_here("attributes of a namespace cannot start with an underscore: {}", target.attribute);
  }
  NamespaceData& space = **found->get<NamespaceData*>();
  const auto [place, added] = space.attributes.try_emplace(target.attribute);
  if (added) space.charge.add(target.attribute.size() + 64);
  place->second = value;
}

Value Interpreter::call(const Value& callee, const Args& args) {
  if (const auto* macro = callee.get<const MacroNode*>()) return call_macro(**macro, args);
  if (const auto* function = callee.get<const Function*>()) return (*function)->call(*this, args);
  if (const auto* method = callee.get<Value::Method>()) {
    return call_method(*this, (*method)->self, (*method)->name, args);
  }
  if (callee.is_undefined()) fail_undefined(callee);
  fail_here("'{}' object is not callable", callee.type_name());
}

Value Interpreter::call_macro(const MacroNode& macro, const Args& args) {
  const Deeper deeper(*this);
  const size_t count = macro.parameters.size();
  Scope scope{.parent = &root_};
  for (size_t i = 0; i < std::min(count, args.positional.size()); ++i) {
    scope.set(macro.parameters[i], args.positional[i], meter());
  }
  DictBuilder unknown(meter());
  meter().step_items(count * (count + args.keywords.size()));
  for (const auto& [name, value] : args.keywords) {
    const auto known = std::find(macro.parameters.begin(), macro.parameters.end(), name);
    const bool open =
        known - macro.parameters.begin() >= static_cast<ptrdiff_t>(args.positional.size());
    if (known != macro.parameters.end() && open) {
      scope.set(*known, value, meter());
    } else if (macro.reads_kwargs) {
      unknown.set(Value::text(name), value);
    } else {
      fail_here("macro '{}' takes no keyword argument '{}'", macro.name, name);
    }
  }
  if (args.positional.size() > count && !macro.reads_varargs) {
    fail_here("macro '{}' takes not more than {} argument(s)", macro.name, count);
  }
  // Defaults may use the parameters before them.
  for (size_t i = 0; i < count; ++i) {
    const auto given = [&](const auto& entry) { return entry.first == macro.parameters[i]; };
    if (std::any_of(scope.names.begin(), scope.names.end(), given)) continue;
    scope.set(
        macro.parameters[i],
        macro.defaults[i] != nullptr
            ? evaluate(*macro.defaults[i], scope)
            : Value::undefined(fmt::format("parameter '{}' was not provided", macro.parameters[i])),
        meter());
  }
  if (macro.reads_kwargs) scope.set("kwargs", unknown.finish(), meter());
  if (macro.reads_varargs) {
    SequenceBuilder rest(meter());
    for (size_t i = count; i < args.positional.size(); ++i) rest.add(args.positional[i]);
    scope.set("varargs", rest.finish(Flavour::kTuple), meter());
  }
  TextBuilder text(meter());
  run(macro.body, scope, text);
  return text.finish();
}

}  // namespace longgen::tokenizer::jinja
