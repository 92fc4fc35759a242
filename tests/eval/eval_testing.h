// Text, a scratch folder and a tiny random model of bytes, for tests of the eval room.
#pragma once

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>

#include "longgen/base/rng.h"
#include "longgen/infer/engine.h"
#include "longgen/tokenizer/byte_tokenizer.h"
#include "tests/testing/scratch_folder.h"

namespace longgen::eval {

using testing::ScratchFolder;

// 30 kB of sentences of four to twelve words, without digits.
inline std::string story_text() {
  static constexpr std::string_view kWords[] = {"river", "old",    "captain", "walked",
                                                "under", "bright", "lamp",    "and",
                                                "never", "asked",  "the",     "stranger"};
  std::string text;
  Rng rng(1, 2);
  while (text.size() < 30000) {
    for (uint64_t words = 4 + rng.below(9); words > 0; --words) {
      text += kWords[rng.below(std::size(kWords))];
      text += words > 1 ? " " : ". ";
    }
  }
  return text;
}

// One full and one windowed layer over bytes.
class TinyModel {
 public:
  explicit TinyModel(int64_t max_tokens)
      : tokenizer_(tokenizer::make_byte_tokenizer()), backend_(make_cpu_backend(1)) {
    config_.vocab_size = tokenizer_->vocab_size();
    config_.hidden_size = config_.intermediate_size = 32;
    config_.num_layers = config_.num_heads = config_.num_kv_heads = 2;
    config_.head_dim = config_.rotary_dim = 16;
    config_.max_position_embeddings = max_tokens;
    config_.tie_word_embeddings = true;
    config_.patterns = {AttentionPattern{.block_size = 16, .sink_blocks = 1, .local_blocks = 4},
                        AttentionPattern::full(16)};
    weights_ =
        std::make_unique<model::ParameterSet>("weights", config_, DType::kF32, backend_->memory());
    model::initialize(config_, 3, *weights_);
  }

  const tokenizer::Tokenizer& tokenizer() const { return *tokenizer_; }
  infer::Engine engine(int64_t batch = 3) const {
    return infer::Engine(config_, *weights_, *backend_,
                         {.chunk = 64, .max_batch = batch, .score_rows = 64});
  }

 private:
  model::ModelConfig config_;
  std::unique_ptr<tokenizer::Tokenizer> tokenizer_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<model::ParameterSet> weights_;
};

}  // namespace longgen::eval
