#include "tests/fuzz/target.h"

#include <algorithm>
#include <array>
#include <stdexcept>

#include "longgen/base/error.h"

namespace longgen::fuzz {
namespace {

// An error quotes a name or a value, not a file.
constexpr size_t kMaxErrorBytes = 8192;

constexpr std::array kTargets = {
    Target{"safetensors", run_safetensors, mutate_safetensors},
    Target{"safetensors_index", run_safetensors_index, mutate_json},
    Target{"gguf", run_gguf, mutate_gguf},
    Target{"gguf_parts", run_gguf_parts, mutate_gguf_parts},
    Target{"model_directory", run_model_directory, mutate_model_directory},
    Target{"hf_config", run_hf_config, mutate_json},
    Target{"tokenizer_json", run_tokenizer_json, mutate_json},
    Target{"tokenizer_directory", run_tokenizer_directory, mutate_json},
    Target{"tokenizer_text", run_tokenizer_text, nullptr},
    Target{"sentencepiece", run_sentencepiece, mutate_sentencepiece},
    Target{"chat_template", run_chat_template, nullptr},
    Target{"jsonl", run_jsonl, nullptr},
    Target{"token_shard", run_token_shard, mutate_token_shard},
    Target{"recipe", run_recipe, nullptr},
    Target{"checkpoint", run_checkpoint, mutate_json},
    Target{"hybrid_spec", run_hybrid_spec, nullptr},
};

}  // namespace

std::span<const Target> targets() { return kTargets; }

const Target* find_target(std::string_view name) {
  const auto it = std::find_if(kTargets.begin(), kTargets.end(),
                               [&](const Target& target) { return target.name == name; });
  return it == kTargets.end() ? nullptr : &*it;
}

void check(bool holds, const char* property) {
  if (!holds) throw std::logic_error(std::string("does not hold: ") + property);
}

void expect_clear_error(std::string_view file, const std::function<void()>& read) {
  try {
    read();
  } catch (const Error& error) {
    const std::string_view text = error.what();
    const bool clear = text.find(file) != text.npos && text.size() <= kMaxErrorBytes;
    if (!clear) {
      throw std::logic_error("an error does not name its file, or is too long: " +
                             std::string(text.substr(0, 400)));
    }
  }
}

std::string_view next_part(std::string_view& rest) {
  const size_t end = rest.find(kNextFile);
  const std::string_view part = rest.substr(0, end);
  rest.remove_prefix(end == rest.npos ? rest.size() : end + kNextFile.size());
  return part;
}

size_t Draws::below(size_t limit) {
  uint64_t z = state_ += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return (z ^ (z >> 31)) % limit;
}

}  // namespace longgen::fuzz
