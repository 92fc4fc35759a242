// From tokens to a tree: Jinja's grammar, without inheritance, includes, calls with a caller,
// recursive loops and autoescaping.
#pragma once

#include <string_view>

#include "longgen/tokenizer/jinja/ast.h"
#include "longgen/tokenizer/jinja/lexer.h"

namespace longgen::tokenizer::jinja {

// Deeper trees are refused.
constexpr int kMaxTreeDepth = 150;

// Throws SyntaxError.
Block parse_template(std::string_view source);

// Reads expressions from a row of tokens; the parser of statements is made of it.
class ExpressionParser {
 public:
  explicit ExpressionParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  ExprPtr parse_expression(bool with_condition = true);
  // Expressions between commas make a tuple.
  ExprPtr parse_tuple(bool with_condition = true, bool empty_allowed = false,
                      std::string_view end_word = "");
  // "| filter(...) | filter ..." behind `expr`, which may be null; the first without "|" when
  // `starts` says so.
  ExprPtr parse_filters(ExprPtr expr, bool starts = false);
  // x, ns.x, or names between commas.
  Target parse_target(bool with_attribute, std::string_view end_word = "");

 protected:
  const Token& current() const { return tokens_[at_]; }
  const Token& ahead() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  Token next();
  bool is_name(std::string_view name) const;
  bool is_operator(std::string_view op) const;
  bool skip_name(std::string_view name);
  bool skip_operator(std::string_view op);
  void expect_operator(std::string_view op);
  std::string expect_name();
  [[noreturn]] void fail_unexpected(std::string_view expected) const;

  // Counts how deep the parser stands in itself.
  class Deeper {
   public:
    explicit Deeper(ExpressionParser& parser);
    ~Deeper() { --parser_.depth_; }

   private:
    ExpressionParser& parser_;
  };

 private:
  ExprPtr make(ExprKind kind, Place place, std::vector<ExprPtr> parts = {}, std::string name = "");
  bool at_tuple_end(std::string_view end_word) const;

  // Operators of one rank, which group from the left: `operand`s with whatever is_one() accepts
  // between them.
  template <typename IsOperator>
  ExprPtr parse_left(ExprKind kind, ExprPtr (ExpressionParser::*operand)(),
                     const IsOperator& is_one);
  ExprPtr parse_or();
  ExprPtr parse_and();
  ExprPtr parse_not();
  ExprPtr parse_compare();
  ExprPtr parse_sum();
  ExprPtr parse_concat();
  ExprPtr parse_product();
  ExprPtr parse_power();
  ExprPtr parse_operand() { return parse_unary(true); }
  ExprPtr parse_unary(bool with_filters);
  ExprPtr parse_primary();
  ExprPtr parse_string();
  ExprPtr parse_number();
  ExprPtr parse_list();
  ExprPtr parse_dict();
  ExprPtr parse_postfix(ExprPtr expr);
  ExprPtr parse_postfix_and_tests(ExprPtr expr);
  ExprPtr parse_subscript(ExprPtr expr);
  ExprPtr parse_call(ExprPtr callee);
  ExprPtr parse_test(ExprPtr expr);
  void parse_arguments(Expr& call);
  void measure(Expr& expr) const;

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace longgen::tokenizer::jinja
