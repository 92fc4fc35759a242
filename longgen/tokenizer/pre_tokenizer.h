// Cuts a text into words, which byte-level BPE then encodes one by one: regular expressions applied
// in turn, each isolating its matches inside the pieces that the one before it left.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace longgen::tokenizer {

// The expression of GPT-2 (openai/gpt-2 src/encoder.py).
extern const char* const kGpt2Pattern;
// One digit at a time.
extern const char* const kDigitPattern;

// How the tokenizers that GGUF files name (tokenizer.ggml.pre) prepare their text.
struct PreTokenizerSpec {
  std::vector<std::string> patterns;
  bool ignore_merges = false;  // a word that is a token is taken whole
  bool nfc = false;            // Unicode normalisation form C first
};

// Throws Error naming `file`, the name and the known names.
PreTokenizerSpec named_pre_tokenizer(const std::string& name, const std::string& file);

class PreTokenizer {
 public:
  // Throws Error naming `file` and the place in the expression when one does not compile. `\s` is
  // Unicode's White_Space, `\d`, `\w` and classes are Unicode's too. No pattern: one piece.
  PreTokenizer(const std::vector<std::string>& patterns, const std::string& file);
  ~PreTokenizer();
  PreTokenizer(PreTokenizer&&) noexcept;

  // What matching needs besides the expressions; one per thread at a time.
  class Scratch {
   public:
    explicit Scratch(const PreTokenizer& owner);
    ~Scratch();
    Scratch(const Scratch&) = delete;

   private:
    friend class PreTokenizer;
    struct Data;
    std::unique_ptr<Data> data_;
  };

  // Calls word(piece) for the pieces of `text` in order; together they are the whole text, which
  // must be valid UTF-8. Throws Error when an expression needs too much work (see kMatchLimit).
  void split(std::string_view text, Scratch& scratch,
             const std::function<void(std::string_view)>& word) const;

 private:
  struct Stage;
  void split_stage(size_t stage, std::string_view text, Scratch& scratch,
                   const std::function<void(std::string_view)>& word) const;
  std::vector<Stage> stages_;
};

}  // namespace longgen::tokenizer
