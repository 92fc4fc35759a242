#define PCRE2_CODE_UNIT_WIDTH 8
#include "longgen/tokenizer/pre_tokenizer.h"

#include <fmt/ranges.h>
#include <pcre2.h>

#include <map>

#include "longgen/base/error.h"
#include "longgen/tokenizer/utf8.h"

namespace longgen::tokenizer {

const char* const kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
const char* const kDigitPattern = R"(\p{N})";

namespace {

// Of Meta's llama3/tokenizer.py and Qwen2's tokenizer.json.
const char* const kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const char* const kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// kDigitPattern and then kGpt2Pattern in one pass: a digit ends the piece before it, so white space
// does not leave its last character to a digit.
const char* const kDigitsThenGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+)";

// Steps of the matcher for one match. The known expressions need one per character of a run; an
// expression that backtracks without end stops here.
constexpr uint32_t kMatchLimit = 50'000'000;
constexpr size_t kJitStackBytes = size_t{8} << 20;

std::map<std::string, PreTokenizerSpec> known_pre_tokenizers() {
  const PreTokenizerSpec gpt2{.patterns = {kGpt2Pattern}};
  const PreTokenizerSpec digits{.patterns = {kDigitPattern, kGpt2Pattern}};
  const PreTokenizerSpec llama3{.patterns = {kLlama3Pattern}, .ignore_merges = true};
  const PreTokenizerSpec qwen2{.patterns = {kQwen2Pattern}, .nfc = true};
  return {{"gpt-2", gpt2},       {"gpt2", gpt2},        {"mpt", gpt2},         {"olmo", gpt2},
          {"jais", gpt2},        {"smollm", digits},    {"starcoder", digits}, {"refact", digits},
          {"command-r", digits}, {"llama-bpe", llama3}, {"llama3", llama3},    {"llama-v3", llama3},
          {"qwen2", qwen2}};
}

// The expression as PCRE2 is to read it. Its \s has U+180E, which Unicode took out of White_Space
// in 6.3; the tokenizers follow Unicode. Classes inside classes and && mean something else to the
// tokenizers' library (Oniguruma) than to PCRE2: Error.
std::string to_pcre(const std::string& pattern, const std::string& file) {
  static constexpr std::string_view kSpaces = R"(\p{Z}\x{9}-\x{D}\x{85})";
  std::string result;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const std::string_view rest = std::string_view(pattern).substr(i);
    if (rest[0] == '\\' && rest.size() > 1) {
      ++i;
      if (rest[1] == 's') {
        result += in_class ? std::string(kSpaces) : fmt::format("[{}]", kSpaces);
      } else if (rest[1] == 'S' && !in_class) {
        result += fmt::format("[^{}]", kSpaces);
      } else {
        result += rest.substr(0, 2);
      }
      continue;
    }
    require(!in_class || !(rest[0] == '[' || rest.starts_with("&&")),
            "{}: the pre-tokenizer's expression '{}' has '{}' inside a character class, which is "
            "not supported",
            file, pattern, rest[0]);
    in_class = rest[0] == '[' || (in_class && rest[0] != ']');
    result += rest[0];
  }
  return result;
}

std::string pcre_message(int code) {
  PCRE2_UCHAR text[256] = {};
  pcre2_get_error_message(code, text, sizeof(text));
  return reinterpret_cast<const char*>(text);
}

struct FreeCode {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};

}  // namespace

PreTokenizerSpec named_pre_tokenizer(const std::string& name, const std::string& file) {
  const auto known = known_pre_tokenizers();
  if (const auto found = known.find(name); found != known.end()) return found->second;
  std::vector<std::string> names;
  for (const auto& [key, spec] : known) names.push_back(key);
  fail(
      "{}: tokenizer.ggml.pre is '{}', a pre-tokenizer that is not known here (known: {}); use the "
      "model's Hugging Face directory, whose tokenizer.json holds the rule itself",
      file, name, fmt::join(names, ", "));
}

struct PreTokenizer::Stage {
  std::unique_ptr<pcre2_code, FreeCode> code;
  std::string pattern, file;
};

struct PreTokenizer::Scratch::Data {
  pcre2_match_data* match = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(32 * 1024, kJitStackBytes, nullptr);

  Data() {
    require(match != nullptr && context != nullptr, "out of memory for the pre-tokenizer");
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~Data() {
    pcre2_match_data_free(match);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
};

PreTokenizer::Scratch::Scratch(const PreTokenizer&) : data_(std::make_unique<Data>()) {}
PreTokenizer::Scratch::~Scratch() = default;

PreTokenizer::PreTokenizer(const std::vector<std::string>& patterns, const std::string& file) {
  std::vector<std::string> used = patterns;
  if (used == std::vector<std::string>{kDigitPattern, kGpt2Pattern})
    used = {kDigitsThenGpt2Pattern};
  for (const std::string& pattern : used) {
    const std::string text = to_pcre(pattern, file);
    int code = 0;
    size_t offset = 0;
    Stage stage;
    stage.code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code, &offset,
                                   nullptr));
    require(stage.code != nullptr,
            "{}: the pre-tokenizer's expression '{}' is not valid: {} (near '{}')", file, pattern,
            pcre_message(code), text.substr(std::min(offset, text.size())).substr(0, 20));
    // Where the system forbids JIT, the same expression is interpreted: same pieces, slower.
    pcre2_jit_compile(stage.code.get(), PCRE2_JIT_COMPLETE);
    stage.pattern = pattern;
    stage.file = file;
    stages_.push_back(std::move(stage));
  }
}

PreTokenizer::~PreTokenizer() = default;
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;

void PreTokenizer::split(std::string_view text, Scratch& scratch,
                         const std::function<void(std::string_view)>& word) const {
  if (!text.empty()) split_stage(0, text, scratch, word);
}

void PreTokenizer::split_stage(size_t index, std::string_view text, Scratch& scratch,
                               const std::function<void(std::string_view)>& word) const {
  if (index == stages_.size()) return word(text);
  const Stage& stage = stages_[index];
  const auto emit = [&](size_t begin, size_t end) {
    const std::string_view piece = text.substr(begin, end - begin);
    if (piece.empty()) return;
    if (index + 1 == stages_.size()) {
      word(piece);
    } else {
      split_stage(index + 1, piece, scratch, word);
    }
  };
  size_t done = 0, from = 0;
  while (from < text.size()) {
    const int found =
        pcre2_match(stage.code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                    PCRE2_NO_UTF_CHECK, scratch.data_->match, scratch.data_->context);
    if (found == PCRE2_ERROR_NOMATCH) break;
    require(found >= 0, "{}: the pre-tokenizer's expression '{}' gave up on the text: {}",
            stage.file, stage.pattern, pcre_message(found));
    const size_t* bounds = pcre2_get_ovector_pointer(scratch.data_->match);
    const size_t begin = bounds[0], end = bounds[1];
    if (end <= begin) {  // an empty match cuts nothing; go on behind the next character
      from = std::max(from, begin);
      if (from >= text.size()) break;
      from += utf8_step(text.substr(from)).length;
      continue;
    }
    emit(done, begin);
    emit(begin, end);
    done = from = end;
  }
  emit(done, text.size());
}

}  // namespace longgen::tokenizer
