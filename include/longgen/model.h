// A language model: text to tokens, completion, scores.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <longgen/pattern.h>

namespace longgen {

struct LoadOptions {
  int threads = 0;  // 0: all that the process may use
  // "f32" or "bf16"; empty: quantised weights as they are stored, others in what the processor
  // computes in fastest.
  std::string dtype = {};
  // Patterns instead of the model's own: "full=middle:1/3 sparse=sink-window".
  std::string hybrid = {};
  int64_t max_tokens = 0;  // positions a sequence may reach; 0: what the model was made for
  int64_t chunk = 1024;    // prompt tokens a pass: more is faster, less takes less memory
};

struct ModelInfo {
  std::string family;   // "llama"
  std::string backend;  // "cpu (avx512-bf16, 2 threads)"
  int64_t layers = 0, hidden_size = 0, vocab_size = 0, parameters = 0;
  int64_t max_tokens = 0;         // positions a sequence may reach here
  int64_t weight_bytes = 0;       // in memory
  std::vector<Pattern> patterns;  // one a layer
};

struct GenerateOptions {
  int64_t max_new_tokens = 128;
  double temperature = 0;  // 0: always the most likely token
  int64_t top_k = 0;       // 0: off
  double top_p = 1, min_p = 0;
  uint64_t seed = 0;
  std::vector<std::string> stop = {};  // text ends before the first of these
  bool ignore_end_of_text = false;
};

enum class Finish : uint8_t { kEndOfText, kStopString, kLength, kCancelled };

struct Generation {
  std::string text;  // without the prompt
  std::vector<int32_t> tokens;
  Finish finish = Finish::kCancelled;
  int64_t prompt_tokens = 0;
  double prefill_seconds = 0, decode_seconds = 0;
};

// Not safe to use from several threads at once; make one Model a thread, or take turns.
class Model {
 public:
  // A Hugging Face directory or a GGUF file.
  static Model open(const std::string& path, const LoadOptions& options = {});
  Model(Model&&) noexcept;
  Model& operator=(Model&&) noexcept;
  ~Model();

  ModelInfo info() const;

  // `special`: special tokens written in the text become their ids.
  std::vector<int32_t> tokenize(std::string_view text, bool special = false) const;
  std::string detokenize(std::span<const int32_t> tokens) const;

  // Called with text as it comes, whole UTF-8 characters; false ends the generation.
  using OnText = std::function<bool(std::string_view)>;
  Generation generate(std::string_view prompt, const GenerateOptions& options = {},
                      const OnText& on_text = {});
  Generation generate(std::span<const int32_t> prompt, const GenerateOptions& options = {},
                      const OnText& on_text = {});

  // Natural-log probability of tokens[t + 1] given tokens[0..t], for t = 0 .. size - 2.
  std::vector<float> score(std::span<const int32_t> tokens);

 private:
  struct Impl;
  explicit Model(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// The library's version, "0.1.0".
const char* version();

}  // namespace longgen
