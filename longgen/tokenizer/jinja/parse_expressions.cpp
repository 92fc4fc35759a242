#include <algorithm>
#include <charconv>

#include "longgen/tokenizer/jinja/parser.h"
#include "longgen/tokenizer/jinja/text.h"

namespace longgen::tokenizer::jinja {
namespace {

std::string describe(const Token& token) {
  switch (token.kind) {
    case TokenKind::kText:
    case TokenKind::kOutputBegin:
    case TokenKind::kBlockBegin:
    case TokenKind::kEnd:
      return "the end of the template";
    case TokenKind::kOutputEnd:
    case TokenKind::kBlockEnd:
      return "the end of the tag";
    case TokenKind::kString:
      return "a string";
    default:
      return fmt::format("'{}'", token.text);
  }
}

}  // namespace

ExpressionParser::Deeper::Deeper(ExpressionParser& parser) : parser_(parser) {
  if (++parser_.depth_ > kMaxTreeDepth) {
    fail_at(parser_.current().place, "nested deeper than {} levels", kMaxTreeDepth);
  }
}

Token ExpressionParser::next() {
  Token token = tokens_[at_];
  if (at_ + 1 < tokens_.size()) ++at_;
  return token;
}
bool ExpressionParser::is_name(std::string_view name) const {
  return current().kind == TokenKind::kName && current().text == name;
}
bool ExpressionParser::is_operator(std::string_view op) const {
  return current().kind == TokenKind::kOperator && current().text == op;
}
bool ExpressionParser::skip_name(std::string_view name) {
  if (!is_name(name)) return false;
  next();
  return true;
}
bool ExpressionParser::skip_operator(std::string_view op) {
  if (!is_operator(op)) return false;
  next();
  return true;
}
void ExpressionParser::expect_operator(std::string_view op) {
  if (!skip_operator(op)) fail_unexpected(fmt::format("'{}'", op));
}
std::string ExpressionParser::expect_name() {
  if (current().kind != TokenKind::kName) fail_unexpected("a name");
  return next().text;
}
void ExpressionParser::fail_unexpected(std::string_view expected) const {
  fail_at(current().place, "expected {}, found {}", expected, describe(current()));
}

ExprPtr ExpressionParser::make(ExprKind kind, Place place, std::vector<ExprPtr> parts,
                               std::string name) {
  auto expr = std::make_unique<Expr>(Expr{kind, place});
  expr->name = std::move(name);
  expr->parts = std::move(parts);
  measure(*expr);
  return expr;
}

void ExpressionParser::measure(Expr& expr) const {
  for (const ExprPtr& part : expr.parts) {
    if (part != nullptr) expr.depth = std::max(expr.depth, part->depth + 1);
  }
  for (const auto& [name, value] : expr.keywords) {
    expr.depth = std::max(expr.depth, value->depth + 1);
  }
  if (expr.depth > kMaxTreeDepth) {
    fail_at(expr.place, "an expression of more than {} levels", kMaxTreeDepth);
  }
}

namespace {

template <typename... Parts>
std::vector<ExprPtr> list_of(Parts... parts) {
  std::vector<ExprPtr> list;
  (list.push_back(std::move(parts)), ...);
  return list;
}

}  // namespace

ExprPtr ExpressionParser::parse_expression(bool with_condition) {
  const Deeper deeper(*this);
  ExprPtr expr = parse_or();
  while (with_condition && is_name("if")) {
    const Place place = next().place;
    ExprPtr condition = parse_or();
    ExprPtr otherwise = skip_name("else") ? parse_expression() : nullptr;
    expr = make(ExprKind::kConditional, place,
                list_of(std::move(condition), std::move(expr), std::move(otherwise)));
  }
  return expr;
}

template <typename IsOperator>
ExprPtr ExpressionParser::parse_left(ExprKind kind, ExprPtr (ExpressionParser::*operand)(),
                                     const IsOperator& is_one) {
  ExprPtr left = (this->*operand)();
  while (is_one()) {
    const Token op = next();
    ExprPtr right = (this->*operand)();
    left = make(kind, op.place, list_of(std::move(left), std::move(right)), op.text);
  }
  return left;
}

ExprPtr ExpressionParser::parse_or() {
  return parse_left(ExprKind::kOr, &ExpressionParser::parse_and, [&] { return is_name("or"); });
}

ExprPtr ExpressionParser::parse_and() {
  return parse_left(ExprKind::kAnd, &ExpressionParser::parse_not, [&] { return is_name("and"); });
}

ExprPtr ExpressionParser::parse_not() {
  if (!is_name("not")) return parse_compare();
  const Deeper deeper(*this);
  const Place place = next().place;
  ExprPtr operand = parse_not();
  return make(ExprKind::kNot, place, list_of(std::move(operand)));
}

ExprPtr ExpressionParser::parse_compare() {
  const Place place = current().place;
  std::vector<ExprPtr> parts;
  std::vector<std::string> operators;
  parts.push_back(parse_sum());
  while (true) {
    static constexpr std::string_view kCompare[] = {"==", "!=", "<", "<=", ">", ">="};
    std::string op;
    if (current().kind == TokenKind::kOperator &&
        std::find(std::begin(kCompare), std::end(kCompare), current().text) != std::end(kCompare)) {
      op = next().text;
    } else if (skip_name("in")) {
      op = "in";
    } else if (is_name("not") && ahead().kind == TokenKind::kName && ahead().text == "in") {
      next();
      next();
      op = "not in";
    } else {
      break;
    }
    operators.push_back(op);
    parts.push_back(parse_sum());
  }
  if (operators.empty()) return std::move(parts[0]);
  ExprPtr expr = make(ExprKind::kCompare, place, std::move(parts));
  expr->operators = std::move(operators);
  return expr;
}

ExprPtr ExpressionParser::parse_sum() {
  return parse_left(ExprKind::kArithmetic, &ExpressionParser::parse_concat,
                    [&] { return is_operator("+") || is_operator("-"); });
}

ExprPtr ExpressionParser::parse_concat() {
  const Place place = current().place;
  std::vector<ExprPtr> parts;
  parts.push_back(parse_product());
  while (skip_operator("~")) parts.push_back(parse_product());
  if (parts.size() == 1) return std::move(parts[0]);
  return make(ExprKind::kConcat, place, std::move(parts));
}

ExprPtr ExpressionParser::parse_product() {
  return parse_left(ExprKind::kArithmetic, &ExpressionParser::parse_power, [&] {
    return is_operator("*") || is_operator("/") || is_operator("//") || is_operator("%");
  });
}

ExprPtr ExpressionParser::parse_power() {
  return parse_left(ExprKind::kArithmetic, &ExpressionParser::parse_operand,
                    [&] { return is_operator("**"); });
}

ExprPtr ExpressionParser::parse_unary(bool with_filters) {
  const Deeper deeper(*this);
  ExprPtr expr;
  if (is_operator("-") || is_operator("+")) {
    const Token sign = next();
    ExprPtr operand = parse_unary(false);
    expr = make(sign.text == "-" ? ExprKind::kNegative : ExprKind::kPositive, sign.place,
                list_of(std::move(operand)));
  } else {
    expr = parse_primary();
  }
  expr = parse_postfix(std::move(expr));
  return with_filters ? parse_postfix_and_tests(std::move(expr)) : std::move(expr);
}

ExprPtr ExpressionParser::parse_primary() {
  const Token& token = current();
  const Place place = token.place;
  switch (token.kind) {
    case TokenKind::kName: {
      const std::string name = next().text;
      if (name == "true" || name == "True" || name == "false" || name == "False") {
        ExprPtr expr = make(ExprKind::kConstant, place);
        expr->constant = Value(name == "true" || name == "True");
        return expr;
      }
      if (name == "none" || name == "None") {
        ExprPtr expr = make(ExprKind::kConstant, place);
        expr->constant = Value(None{});
        return expr;
      }
      return make(ExprKind::kName, place, {}, name);
    }
    case TokenKind::kString:
      return parse_string();
    case TokenKind::kInteger:
    case TokenKind::kFloat:
      return parse_number();
    default:
      break;
  }
  if (skip_operator("(")) {
    ExprPtr expr = parse_tuple(true, true);
    expect_operator(")");
    return expr;
  }
  if (is_operator("[")) return parse_list();
  if (is_operator("{")) return parse_dict();
  fail_unexpected("an expression");
}

// Strings beside each other are one.
ExprPtr ExpressionParser::parse_string() {
  ExprPtr expr = make(ExprKind::kConstant, current().place);
  std::string text;
  while (current().kind == TokenKind::kString) text += next().text;
  expr->constant = Value::text(std::move(text));
  return expr;
}

ExprPtr ExpressionParser::parse_number() {
  const Token token = next();
  ExprPtr expr = make(ExprKind::kConstant, token.place);
  if (token.kind == TokenKind::kInteger) {
    const auto value = parse_integer(token.text, 10);
    if (!value) fail_at(token.place, "the number {} is beyond 64 bits", token.text);
    expr->constant = Value(*value);
  } else {
    const auto value = parse_float(token.text);
    if (!value) fail_at(token.place, "'{}' is not a number", token.text);
    expr->constant = Value(*value);
  }
  return expr;
}

bool ExpressionParser::at_tuple_end(std::string_view end_word) const {
  const TokenKind kind = current().kind;
  return kind == TokenKind::kOutputEnd || kind == TokenKind::kBlockEnd || is_operator(")") ||
         (!end_word.empty() && is_name(end_word));
}

ExprPtr ExpressionParser::parse_tuple(bool with_condition, bool empty_allowed,
                                      std::string_view end_word) {
  const Place place = current().place;
  std::vector<ExprPtr> parts;
  bool is_tuple = false;
  while (!at_tuple_end(end_word)) {
    parts.push_back(parse_expression(with_condition));
    if (!skip_operator(",")) break;
    is_tuple = true;
  }
  if (!is_tuple && !parts.empty()) return std::move(parts[0]);
  if (!is_tuple && !empty_allowed) fail_unexpected("an expression");
  return make(ExprKind::kTuple, place, std::move(parts));
}

ExprPtr ExpressionParser::parse_list() {
  const Place place = next().place;
  std::vector<ExprPtr> parts;
  while (!is_operator("]")) {
    parts.push_back(parse_expression());
    if (!skip_operator(",")) break;
  }
  expect_operator("]");
  return make(ExprKind::kList, place, std::move(parts));
}

ExprPtr ExpressionParser::parse_dict() {
  const Place place = next().place;
  std::vector<ExprPtr> parts;
  while (!is_operator("}")) {
    parts.push_back(parse_expression());
    expect_operator(":");
    parts.push_back(parse_expression());
    if (!skip_operator(",")) break;
  }
  expect_operator("}");
  return make(ExprKind::kDict, place, std::move(parts));
}

ExprPtr ExpressionParser::parse_postfix(ExprPtr expr) {
  while (true) {
    if (is_operator(".") || is_operator("[")) {
      expr = parse_subscript(std::move(expr));
    } else if (is_operator("(")) {
      expr = parse_call(std::move(expr));
    } else {
      return expr;
    }
  }
}

// Filters and tests, and calls of what they give.
ExprPtr ExpressionParser::parse_postfix_and_tests(ExprPtr expr) {
  while (true) {
    if (is_operator("|")) {
      expr = parse_filters(std::move(expr));
    } else if (is_name("is")) {
      expr = parse_test(std::move(expr));
    } else if (is_operator("(")) {
      expr = parse_call(std::move(expr));
    } else {
      return expr;
    }
  }
}

ExprPtr ExpressionParser::parse_call(ExprPtr callee) {
  ExprPtr call = make(ExprKind::kCall, current().place, list_of(std::move(callee)));
  parse_arguments(*call);
  return call;
}

ExprPtr ExpressionParser::parse_subscript(ExprPtr expr) {
  const Token opener = next();
  if (opener.text == ".") {
    if (current().kind == TokenKind::kInteger) {
      ExprPtr index = parse_number();
      return make(ExprKind::kItem, opener.place, list_of(std::move(expr), std::move(index)));
    }
    const Place place = current().place;
    return make(ExprKind::kAttribute, place, list_of(std::move(expr)), expect_name());
  }
  std::vector<ExprPtr> bounds(1);
  bool is_slice = false;
  while (!is_operator("]")) {
    if (skip_operator(":")) {
      is_slice = true;
      bounds.emplace_back();
      if (bounds.size() > 3) fail_unexpected("']'");
    } else if (bounds.back() == nullptr) {
      bounds.back() = parse_expression();
    } else {
      fail_unexpected("']'");
    }
  }
  if (!is_slice && bounds[0] == nullptr) fail_unexpected("an expression");
  next();
  if (!is_slice) {
    return make(ExprKind::kItem, opener.place, list_of(std::move(expr), std::move(bounds[0])));
  }
  bounds.resize(3);
  return make(
      ExprKind::kSlice, opener.place,
      list_of(std::move(expr), std::move(bounds[0]), std::move(bounds[1]), std::move(bounds[2])));
}

// "(a, b, name=c)" behind what is called; positional arguments follow the parts that are there.
void ExpressionParser::parse_arguments(Expr& call) {
  expect_operator("(");
  while (!is_operator(")")) {
    if (is_operator("*") || is_operator("**")) {
      fail_at(current().place, "arguments from a list or dict (*, **) are not supported");
    }
    if (current().kind == TokenKind::kName && ahead().kind == TokenKind::kOperator &&
        ahead().text == "=") {
      std::string name = next().text;
      next();
      call.keywords.emplace_back(std::move(name), parse_expression());
    } else {
      if (!call.keywords.empty()) {
        fail_at(current().place, "an argument without a name behind one with a name");
      }
      call.parts.push_back(parse_expression());
    }
    if (!skip_operator(",")) break;
  }
  expect_operator(")");
  measure(call);
}

ExprPtr ExpressionParser::parse_filters(ExprPtr expr, bool starts) {
  while (starts || skip_operator("|")) {
    starts = false;
    const Place place = current().place;
    std::string name = expect_name();
    while (skip_operator(".")) name.append(1, '.').append(expect_name());
    ExprPtr filter = make(ExprKind::kFilter, place, list_of(std::move(expr)), std::move(name));
    if (is_operator("(")) parse_arguments(*filter);
    expr = std::move(filter);
  }
  return expr;
}

ExprPtr ExpressionParser::parse_test(ExprPtr expr) {
  next();
  const bool negated = skip_name("not");
  const Place place = current().place;
  ExprPtr test = make(ExprKind::kTest, place, list_of(std::move(expr)), expect_name());
  const TokenKind kind = current().kind;
  if (is_operator("(")) {
    parse_arguments(*test);
  } else if (kind == TokenKind::kString || kind == TokenKind::kInteger ||
             kind == TokenKind::kFloat || is_operator("[") || is_operator("{") ||
             (kind == TokenKind::kName && !is_name("else") && !is_name("or") && !is_name("and"))) {
    if (is_name("is")) fail_at(current().place, "tests with 'is' cannot follow each other");
    const Deeper deeper(*this);
    test->parts.push_back(parse_postfix(parse_primary()));
    measure(*test);
  }
  if (!negated) return test;
  return make(ExprKind::kNot, place, list_of(std::move(test)));
}

Target ExpressionParser::parse_target(bool with_attribute, std::string_view end_word) {
  std::vector<Target> targets;
  bool is_tuple = false;
  while (!at_tuple_end(end_word) || targets.empty()) {
    const Token name = current();
    Target target{.name = expect_name()};
    for (const char* constant : {"true", "false", "none", "True", "False", "None"}) {
      if (target.name == constant) fail_at(name.place, "cannot assign to {}", constant);
    }
    if (with_attribute && skip_operator(".")) target.attribute = expect_name();
    targets.push_back(std::move(target));
    if (!skip_operator(",")) break;
    is_tuple = true;
  }
  if (!is_tuple) return std::move(targets[0]);
  return Target{.tuple = std::move(targets)};
}

}  // namespace longgen::tokenizer::jinja
