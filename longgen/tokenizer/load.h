// Tokenizers from files. Tokenizer::load() chooses between these.
#pragma once

#include <filesystem>
#include <memory>

#include "longgen/tokenizer/tokenizer.h"

namespace longgen::formats {
class GgufFile;
}

namespace longgen::tokenizer {

// From tokenizer.ggml.*. Throws Error naming the file and the key.
std::unique_ptr<Tokenizer> load_gguf_tokenizer(const formats::GgufFile& gguf);

// From the first of these that is there: tokenizer.json, tokenizer.model, GPT-2's vocab.json with
// merges.txt; and tokenizer_config.json, special_tokens_map.json and chat_template.jinja beside it.
// Throws Error naming file and field.
std::unique_ptr<Tokenizer> load_hf_tokenizer(const std::filesystem::path& directory);

// A GGUF file or a Hugging Face directory.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& model);

// Completes info.end_of_generation: the end-of-text token and the special tokens that chat models
// end their turns with.
void add_end_of_generation(TokenizerInfo& info);

}  // namespace longgen::tokenizer
