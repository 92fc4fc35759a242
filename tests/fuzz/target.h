// The doors by which files from elsewhere come in, as fuzz targets. The same functions run under
// libFuzzer (libfuzzer/main.cpp) and over the committed corpora in every test run
// (replay_test.cpp).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

namespace longgen::fuzz {

// Changes some bytes, keeping at most `max_size`: libFuzzer's own mutations.
using MutateBytes = std::function<std::string(std::string bytes, size_t max_size)>;

struct Target {
  const char* name;
  // Reads hostile bytes. longgen::Error that says where is the only thing that may come of bad
  // ones, and is swallowed; whatever else is thrown, a failed check() or a sanitizer's finding is a
  // defect.
  void (*run)(std::string_view bytes);
  // Changes a file so that it is likely to stay a file of its kind: lengths and checksums are set
  // right again. Null: bytes are changed blindly.
  std::string (*mutate)(std::string_view bytes, size_t max_size, uint32_t seed,
                        const MutateBytes& mutate_bytes);
};

std::span<const Target> targets();
// Null when there is none.
const Target* find_target(std::string_view name);

// A property that holds for every input. Throws std::logic_error, which no target swallows.
void check(bool holds, const char* property);

// Runs `read`. An Error must name `file` (so that a person knows where to look; "": need not), and
// be of a length that a person reads.
void expect_clear_error(std::string_view file, const std::function<void()>& read);

// The targets, one file a room: formats.cpp, tokenizer.cpp,
// chat_template.cpp, data.cpp, train.cpp, pattern.cpp.
void run_safetensors(std::string_view bytes);
void run_safetensors_index(std::string_view bytes);
void run_gguf(std::string_view bytes);
void run_gguf_parts(std::string_view bytes);
void run_model_directory(std::string_view bytes);
void run_hf_config(std::string_view bytes);
void run_tokenizer_json(std::string_view bytes);
void run_tokenizer_directory(std::string_view bytes);
void run_tokenizer_text(std::string_view bytes);
void run_sentencepiece(std::string_view bytes);
void run_chat_template(std::string_view bytes);
void run_jsonl(std::string_view bytes);
void run_token_shard(std::string_view bytes);
void run_recipe(std::string_view bytes);
void run_checkpoint(std::string_view bytes);
void run_hybrid_spec(std::string_view bytes);

// The mutations, in mutate_*.cpp. mutate_json takes several files, of which some are JSON.
std::string mutate_json(std::string_view bytes, size_t max_size, uint32_t seed,
                        const MutateBytes& mutate_bytes);
std::string mutate_safetensors(std::string_view bytes, size_t max_size, uint32_t seed,
                               const MutateBytes& mutate_bytes);
std::string mutate_gguf(std::string_view bytes, size_t max_size, uint32_t seed,
                        const MutateBytes& mutate_bytes);
std::string mutate_gguf_parts(std::string_view bytes, size_t max_size, uint32_t seed,
                              const MutateBytes& mutate_bytes);
std::string mutate_model_directory(std::string_view bytes, size_t max_size, uint32_t seed,
                                   const MutateBytes& mutate_bytes);
std::string mutate_sentencepiece(std::string_view bytes, size_t max_size, uint32_t seed,
                                 const MutateBytes& mutate_bytes);
std::string mutate_token_shard(std::string_view bytes, size_t max_size, uint32_t seed,
                               const MutateBytes& mutate_bytes);

// An input that stands for several files: they follow each other, each but the last ended by this
// line.
inline constexpr std::string_view kNextFile = "\n=====\n";
// The next part of `rest`, which shrinks by it.
std::string_view next_part(std::string_view& rest);

// Draws for mutations (SplitMix64).
class Draws {
 public:
  explicit Draws(uint64_t seed) : state_(seed) {}
  // In [0, limit).
  size_t below(size_t limit);
  bool one_in(size_t n) { return below(n) == 0; }

 private:
  uint64_t state_;
};

}  // namespace longgen::fuzz
