// longgen tokenize: text to token ids, line by line, and back.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <iterator>

#include "longgen/base/error.h"
#include "longgen/base/log.h"
#include "longgen/base/text_input.h"
#include "longgen/cli/command.h"
#include "longgen/tokenizer/load.h"

namespace longgen::cli {
namespace {

// Ids as `longgen tokenize` writes them: numbers between spaces, or a JSON array.
std::vector<int32_t> parse_ids(std::string_view line, int32_t vocab_size,
                               const std::string& where) {
  static constexpr std::string_view kBetween = " \t\r,[]";
  std::vector<int32_t> ids;
  for (size_t i = line.find_first_not_of(kBetween); i < line.size();
       i = line.find_first_not_of(kBetween, i)) {
    const size_t end = std::min(line.find_first_of(kBetween, i), line.size());
    int32_t id = 0;
    const auto [stop, error] = std::from_chars(line.data() + i, line.data() + end, id);
    require(error == std::errc() && stop == line.data() + end, "{}: '{}' is not a token id", where,
            line.substr(i, end - i));
    require(id >= 0 && id < vocab_size, "{}: token id {} is outside the vocabulary of {} tokens",
            where, id, vocab_size);
    ids.push_back(id);
    i = end;
  }
  return ids;
}

void write_out(std::string_view text) {
  const size_t written = std::fwrite(text.data(), 1, text.size(), stdout);
  require(written == text.size(), "cannot write to standard output (is the disk full?)");
}

class TokenizeCommand : public Command {
 public:
  std::string name() const override { return "tokenize"; }
  std::string description() const override {
    return "Token ids of a text, one line per input line, and back";
  }
  std::string example() const override {
    return "echo 'The capital of France is' | \\\n"
           "      longgen tokenize SmolLM2-135M-Instruct.Q4_1.gguf";
  }

  void add_options(CLI::App& app, const CommonOptions& common) override {
    common_ = &common;
    app.add_option("model", model_, "Model folder or GGUF file")->required();
    app.add_option("file", file_, "Text to read; - or nothing: stdin");
    app.add_flag("--decode", decode_, "Read lines of ids and write their text, exact bytes");
    app.add_flag("--special", special_, "Special tokens written in the text become their ids");
    app.add_flag("--bos", bos_, "Put the BOS token first (with --decode: leave it out)");
    app.add_flag("--whole", whole_, "Take the whole input as one text, line ends included");
  }

  int run() override {
    if (decode_ && common_->json) fail_usage("--json writes ids; it does not go with --decode");
    tokenizer_ = tokenizer::load_tokenizer(model_);
    if (bos_) {
      require(tokenizer_->bos_id() != tokenizer::kNoToken, "{}: this tokenizer has no BOS token",
              model_);
    }
    missing_ = tokenizer_->missing_bytes();
    TextInput input(file_);
    process(input);
    require(std::fflush(stdout) == 0 && std::ferror(stdout) == 0,
            "cannot write to standard output (is the disk full?)");
    return 0;
  }

 private:
  void process(TextInput& input) {
    if (whole_ && !decode_) return encode(input.rest());
    std::string text;
    for (int64_t line = 1; input.next_line(text); ++line) {
      if (decode_) {
        const std::string where = fmt::format("{} line {}", input.name(), line);
        decode(parse_ids(text, tokenizer_->vocab_size(), where));
      } else {
        encode(text);
      }
      // Whoever writes line by line and waits for the answer gets it.
      if (!input.has_line()) std::fflush(stdout);
    }
  }

  void encode(std::string_view text) {
    if (!warned_ && text.find_first_of(missing_) != text.npos) {
      warn(
          "the vocabulary has no token for some bytes of the text (control characters, or bytes "
          "that are not UTF-8); they are dropped, or become the unknown token");
      warned_ = true;
    }
    const auto ids = tokenizer_->encode(text, {.add_bos = bos_, .parse_special = special_});
    const char* between = common_->json ? "," : " ";
    fmt::memory_buffer line;
    if (common_->json) line.push_back('[');
    for (size_t i = 0; i < ids.size(); ++i) {
      fmt::format_to(std::back_inserter(line), "{}{}", i > 0 ? between : "", ids[i]);
    }
    if (common_->json) line.push_back(']');
    line.push_back('\n');
    write_out({line.data(), line.size()});
  }

  void decode(std::vector<int32_t> ids) const {
    if (bos_ && !ids.empty() && ids[0] == tokenizer_->bos_id()) ids.erase(ids.begin());
    std::string text = tokenizer_->decode(ids);
    if (!whole_) text += '\n';
    write_out(text);
  }

  const CommonOptions* common_ = nullptr;
  std::string model_, file_ = "-", missing_;
  bool decode_ = false, special_ = false, bos_ = false, whole_ = false, warned_ = false;
  std::unique_ptr<tokenizer::Tokenizer> tokenizer_;
};

}  // namespace

std::unique_ptr<Command> make_tokenize_command() { return std::make_unique<TokenizeCommand>(); }

}  // namespace longgen::cli
