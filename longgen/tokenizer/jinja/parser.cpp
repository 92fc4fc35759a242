#include "longgen/tokenizer/jinja/parser.h"

#include <algorithm>
#include <initializer_list>

namespace longgen::tokenizer::jinja {
namespace {

// Whether an expression reads a variable.
bool reads(const Expr& expr, std::string_view name) {
  if (expr.kind == ExprKind::kName && expr.name == name) return true;
  const auto in = [&](const ExprPtr& part) { return part != nullptr && reads(*part, name); };
  return std::any_of(expr.parts.begin(), expr.parts.end(), in) ||
         std::any_of(expr.keywords.begin(), expr.keywords.end(),
                     [&](const auto& keyword) { return in(keyword.second); });
}

bool reads(const Block& block, std::string_view name);

bool reads(const Stmt& stmt, std::string_view name) {
  const auto in = [&](const ExprPtr& expr) { return expr != nullptr && reads(*expr, name); };
  return in(stmt.value) || in(stmt.condition) || reads(stmt.body, name) ||
         reads(stmt.otherwise, name) ||
         std::any_of(stmt.branches.begin(), stmt.branches.end(),
                     [&](const auto& b) { return in(b.first) || reads(b.second, name); }) ||
         std::any_of(stmt.assignments.begin(), stmt.assignments.end(),
                     [&](const auto& a) { return in(a.second); });
}

bool reads(const Block& block, std::string_view name) {
  return std::any_of(block.begin(), block.end(),
                     [&](const auto& stmt) { return reads(*stmt, name); });
}

class Parser : public ExpressionParser {
 public:
  using ExpressionParser::ExpressionParser;

  Block parse() {
    Block block = parse_block({}, {});
    if (current().kind != TokenKind::kEnd) fail_unexpected("the end of the template");
    return block;
  }

 private:
  using Words = std::initializer_list<std::string_view>;
  using StmtPtr = std::unique_ptr<Stmt>;

  // Statements up to a tag that starts with one of `ends`; that word is the current token then.
  Block parse_block(std::string_view opener, Words ends, Place opened = {}) {
    const Deeper deeper(*this);
    Block block;
    while (current().kind != TokenKind::kEnd) {
      const Token token = next();
      if (token.kind == TokenKind::kText) {
        block.push_back(make(StmtKind::kText, token.place));
        block.back()->text = token.text;
      } else if (token.kind == TokenKind::kOutputBegin) {
        block.push_back(make(StmtKind::kOutput, token.place));
        block.back()->value = parse_tuple();
        if (current().kind != TokenKind::kOutputEnd) fail_unexpected("'}}'");
        next();
      } else {
        if (std::any_of(ends.begin(), ends.end(), [&](auto word) { return is_name(word); })) {
          return block;
        }
        block.push_back(parse_statement());
        if (current().kind != TokenKind::kBlockEnd) fail_unexpected("'%}'");
        next();
      }
    }
    if (ends.size() > 0) fail_at(opened, "the tag {} has no {}", opener, *(ends.end() - 1));
    return block;
  }

  static StmtPtr make(StmtKind kind, Place place) {
    auto stmt = std::make_unique<Stmt>();
    stmt->kind = kind;
    stmt->place = place;
    return stmt;
  }

  void end_tag() {
    if (current().kind != TokenKind::kBlockEnd) fail_unexpected("'%}'");
    next();
  }

  // Everything of a tag but its "%}", and of a tag with a body, up to the end tag's.
  StmtPtr parse_statement() {
    const Token word = current();
    if (word.kind != TokenKind::kName) fail_unexpected("the name of a tag");
    next();
    if (word.text == "if") return parse_if(word.place);
    if (word.text == "for") return parse_for(word.place);
    if (word.text == "set") return parse_set(word.place);
    if (word.text == "macro") return parse_macro(word.place);
    if (word.text == "filter") return parse_filter_block(word.place);
    if (word.text == "with") return parse_with(word.place);
    if (word.text == "generation") {
      StmtPtr stmt = make(StmtKind::kScope, word.place);
      read_body(*stmt, word.text, "endgeneration");
      return stmt;
    }
    if (word.text == "break" || word.text == "continue") {
      if (loops_ == 0) fail_at(word.place, "{} outside of a loop", word.text);
      return make(word.text == "break" ? StmtKind::kBreak : StmtKind::kContinue, word.place);
    }
    static constexpr std::string_view kKnown[] = {"block", "extends",   "include", "import",
                                                  "from",  "call",      "do",      "trans",
                                                  "print", "autoescape"};
    if (std::find(std::begin(kKnown), std::end(kKnown), word.text) != std::end(kKnown)) {
      fail_at(word.place, "the tag {} is not supported", word.text);
    }
    fail_at(word.place, "unknown tag {}", word.text);
  }

  // The body of a tag whose head was read, and the word of its end tag. Names set in it stay in it.
  void read_body(Stmt& stmt, std::string_view name, std::string_view end) {
    end_tag();
    ++scopes_;
    const int64_t loops = std::exchange(loops_, 0);
    stmt.body = parse_block(name, {end}, stmt.place);
    loops_ = loops;
    --scopes_;
    next();
  }

  StmtPtr parse_if(Place place) {
    StmtPtr stmt = make(StmtKind::kIf, place);
    while (true) {
      ExprPtr condition = parse_tuple(false);
      end_tag();
      Block body = parse_block("if", {"elif", "else", "endif"}, place);
      stmt->branches.emplace_back(std::move(condition), std::move(body));
      const Token word = next();
      if (word.text == "elif") continue;
      if (word.text == "else") {
        end_tag();
        stmt->otherwise = parse_block("if", {"endif"}, place);
        next();
      }
      return stmt;
    }
  }

  StmtPtr parse_for(Place place) {
    StmtPtr stmt = make(StmtKind::kFor, place);
    stmt->target = parse_target(false, "in");
    if (!skip_name("in")) fail_unexpected("'in'");
    stmt->value = parse_tuple(false, false, "recursive");
    if (skip_name("if")) stmt->condition = parse_expression();
    if (is_name("recursive")) fail_at(current().place, "recursive loops are not supported");
    end_tag();
    ++loops_;
    ++scopes_;
    stmt->body = parse_block("for", {"else", "endfor"}, place);
    --loops_;
    if (next().text == "else") {
      end_tag();
      stmt->otherwise = parse_block("for", {"endfor"}, place);
      next();
    }
    --scopes_;
    return stmt;
  }

  StmtPtr parse_set(Place place) {
    StmtPtr stmt = make(StmtKind::kSet, place);
    stmt->target = parse_target(true);
    if (skip_operator("=")) {
      stmt->value = parse_tuple();
      return stmt;
    }
    stmt->kind = StmtKind::kSetBlock;
    if (!stmt->target.tuple.empty()) fail_unexpected("'='");
    stmt->value = parse_filters(nullptr);
    read_body(*stmt, "set", "endset");
    return stmt;
  }

  StmtPtr parse_filter_block(Place place) {
    StmtPtr stmt = make(StmtKind::kFilter, place);
    stmt->value = parse_filters(nullptr, true);
    read_body(*stmt, "filter", "endfilter");
    return stmt;
  }

  StmtPtr parse_with(Place place) {
    StmtPtr stmt = make(StmtKind::kWith, place);
    while (current().kind != TokenKind::kBlockEnd) {
      if (!stmt->assignments.empty()) expect_operator(",");
      Target target = parse_target(false, "=");
      expect_operator("=");
      stmt->assignments.emplace_back(std::move(target), parse_expression());
    }
    end_tag();
    ++scopes_;
    stmt->body = parse_block("with", {"endwith"}, place);
    --scopes_;
    next();
    return stmt;
  }

  StmtPtr parse_macro(Place place) {
    // A macro would have to keep the names around it alive.
    if (scopes_ > 0) fail_at(place, "a macro inside of a loop, block or macro is not supported");
    StmtPtr stmt = make(StmtKind::kMacro, place);
    stmt->macro = std::make_unique<MacroNode>();
    MacroNode& macro = *stmt->macro;
    macro.name = expect_name();
    expect_operator("(");
    while (!is_operator(")")) {
      const Place parameter = current().place;
      macro.parameters.push_back(expect_name());
      macro.defaults.push_back(skip_operator("=") ? parse_expression() : nullptr);
      if (macro.defaults.back() == nullptr && macro.defaults.size() > 1 &&
          macro.defaults[macro.defaults.size() - 2] != nullptr) {
        fail_at(parameter, "a parameter without a default behind one with a default");
      }
      if (!skip_operator(",")) break;
    }
    expect_operator(")");
    read_body(*stmt, "macro", "endmacro");
    macro.body = std::move(stmt->body);
    if (reads(macro.body, "caller")) {
      fail_at(place, "the macro {} uses caller, which is not supported", macro.name);
    }
    macro.reads_varargs = reads(macro.body, "varargs");
    macro.reads_kwargs = reads(macro.body, "kwargs");
    return stmt;
  }

  int64_t loops_ = 0, scopes_ = 0;  // around the current statement
};

}  // namespace

Block parse_template(std::string_view source) { return Parser(tokenize(source)).parse(); }

}  // namespace longgen::tokenizer::jinja
