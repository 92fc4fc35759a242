#include "longgen/tokenizer/load.h"

#include "longgen/base/error.h"
#include "longgen/formats/model_file.h"

namespace longgen::tokenizer {

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& model) {
  std::error_code ignored;
  if (std::filesystem::is_directory(model, ignored)) return load_hf_tokenizer(model);
  return load_gguf_tokenizer(formats::GgufFile(model));
}

std::unique_ptr<Tokenizer> Tokenizer::load(const formats::ModelFile& file) {
  auto tokenizer = file.gguf() != nullptr ? load_gguf_tokenizer(*file.gguf())
                                          : load_hf_tokenizer(file.directory());
  require(tokenizer->vocab_size() <= file.config().vocab_size,
          "{}: the tokenizer has {} tokens, the model only {}; they do not belong together",
          file.path().string(), tokenizer->vocab_size(), file.config().vocab_size);
  std::vector<int32_t> ends = tokenizer->end_of_generation_ids();
  for (const int64_t id : file.extras().generation.eos_ids)
    ends.push_back(static_cast<int32_t>(id));
  tokenizer->set_end_of_generation(std::move(ends));
  return tokenizer;
}

}  // namespace longgen::tokenizer
