// A parsed template.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "longgen/tokenizer/jinja/value.h"

namespace longgen::tokenizer::jinja {

struct Place {
  int64_t line = 1, column = 1;  // column in bytes
};

enum class ExprKind : uint8_t {
  kConstant,     // constant
  kName,         // name
  kList,         // parts
  kTuple,        // parts
  kDict,         // parts: key, value, key, value ...
  kAttribute,    // parts[0].name
  kItem,         // parts[0][parts[1]]
  kSlice,        // parts[0][parts[1]:parts[2]:parts[3]], null where left out
  kCall,         // parts[0](parts[1] ..., keywords)
  kFilter,       // parts[0] | name(parts[1] ..., keywords); parts[0] null: the block's text
  kTest,         // parts[0] is name(parts[1] ...)
  kNot,          // parts[0]
  kNegative,     // -parts[0]
  kPositive,     // +parts[0]
  kAnd,          // parts[0] and parts[1]
  kOr,           // parts[0] or parts[1]
  kArithmetic,   // parts[0] name parts[1]: + - * / // % **
  kConcat,       // parts joined by ~
  kCompare,      // parts[0] operators[0] parts[1] operators[1] parts[2] ...
  kConditional,  // parts[1] if parts[0] else parts[2], which may be null
};

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct Expr {
  ExprKind kind;
  Place place;
  std::string name;
  Value constant;
  std::vector<ExprPtr> parts;
  std::vector<std::pair<std::string, ExprPtr>> keywords;
  std::vector<std::string> operators;
  int depth = 1;  // of the tree, so that neither running nor freeing it can exhaust the stack
};

// What an assignment or a for loop writes to.
struct Target {
  std::string name;
  std::string attribute;      // of a namespace; "" otherwise
  std::vector<Target> tuple;  // names between commas; empty: one name
};

enum class StmtKind : uint8_t {
  kText,      // text
  kOutput,    // value
  kIf,        // branches in order, `otherwise`
  kFor,       // target in value if condition: body, else: otherwise
  kSet,       // target = value
  kSetBlock,  // target = body, through the filters of value (may be null)
  kFilter,    // body through the filters of value
  kWith,      // assignments, body
  kScope,     // body with names of its own (the generation tag)
  kMacro,     // macro
  kBreak,
  kContinue,
};

struct Stmt;
using Block = std::vector<std::unique_ptr<Stmt>>;

struct Stmt {
  StmtKind kind;
  Place place;
  std::string text;
  ExprPtr value, condition;
  Target target;
  std::vector<std::pair<ExprPtr, Block>> branches;
  std::vector<std::pair<Target, ExprPtr>> assignments;
  Block body, otherwise;
  std::unique_ptr<MacroNode> macro;
};

struct MacroNode {
  std::string name;
  std::vector<std::string> parameters;
  std::vector<ExprPtr> defaults;  // by parameter, null where there is none
  Block body;
  bool reads_varargs = false, reads_kwargs = false;
};

}  // namespace longgen::tokenizer::jinja
