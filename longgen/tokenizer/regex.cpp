#define PCRE2_CODE_UNIT_WIDTH 8
#include "longgen/tokenizer/regex.h"

#include <pcre2.h>

#include <algorithm>

#include "longgen/base/error.h"
#include "longgen/tokenizer/regex_syntax.h"
#include "longgen/tokenizer/utf8.h"

namespace longgen::tokenizer {
namespace {

// Steps of the matcher for one match. The known expressions need one per character of a run; an
// expression that backtracks without end stops here.
constexpr uint32_t kMatchLimit = 50'000'000;
constexpr size_t kJitStackBytes = size_t{8} << 20;

std::string pcre_message(int code) {
  PCRE2_UCHAR text[256] = {};
  pcre2_get_error_message(code, text, sizeof(text));
  return reinterpret_cast<const char*>(text);
}

PCRE2_SPTR units(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

struct FreeContext {
  void operator()(pcre2_compile_context* context) const { pcre2_compile_context_free(context); }
};

}  // namespace

struct Regex::Code {
  pcre2_code* code = nullptr;
  ~Code() { pcre2_code_free(code); }
};

struct Regex::Scratch::Data {
  pcre2_match_data* match = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(32 * 1024, kJitStackBytes, nullptr);

  Data() {
    require(match != nullptr && context != nullptr, "out of memory for a regular expression");
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~Data() {
    pcre2_match_data_free(match);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
};

Regex::Scratch::Scratch() : data_(std::make_unique<Data>()) {}
Regex::Scratch::~Scratch() = default;

Regex::Regex(const std::string& pattern, std::string where)
    : code_(std::make_unique<Code>()), pattern_(pattern), where_(std::move(where)) {
  const std::string text = oniguruma_to_pcre(pattern, where_);
  const std::unique_ptr<pcre2_compile_context, FreeContext> context(
      pcre2_compile_context_create(nullptr));
  require(context != nullptr, "out of memory for a regular expression");
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  size_t offset = 0;
  code_->code = pcre2_compile(units(text), text.size(),
                              PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                              &error, &offset, context.get());
  require(code_->code != nullptr, "{}: the expression '{}' is not valid: {} (near '{}')", where_,
          pattern, pcre_message(error), text.substr(std::min(offset, text.size())).substr(0, 20));
  // Where the system forbids JIT, the same expression is interpreted: same matches, slower.
  pcre2_jit_compile(code_->code, PCRE2_JIT_COMPLETE);
}

Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;

std::string Regex::quoted(std::string_view text) {
  std::string pattern;
  for (const char c : text) {
    if (std::string_view(R"(\.+*?()|[]{}^$#&-~/)").find(c) != std::string_view::npos)
      pattern += '\\';
    pattern += c;
  }
  return pattern;
}

std::optional<Regex::Range> Regex::find(std::string_view text, size_t from,
                                        std::optional<size_t> not_empty_at,
                                        Scratch& scratch) const {
  while (from <= text.size()) {
    const int found = pcre2_match(code_->code, units(text), text.size(), from, PCRE2_NO_UTF_CHECK,
                                  scratch.data_->match, scratch.data_->context);
    if (found == PCRE2_ERROR_NOMATCH) return std::nullopt;
    require(found >= 0, "{}: the expression '{}' gave up on the text: {}", where_, pattern_,
            pcre_message(found));
    const size_t* bounds = pcre2_get_ovector_pointer(scratch.data_->match);
    const Range range{bounds[0], bounds[1]};
    if (range.begin < range.end || range.end != not_empty_at) return range;
    if (range.end == text.size()) return std::nullopt;
    from = range.end + utf8_step(text.substr(range.end)).length;
  }
  return std::nullopt;
}

}  // namespace longgen::tokenizer
