// A tiny decoder, its data and its trainer, for tests of the train room.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "longgen/base/rng.h"
#include "longgen/data/packer.h"
#include "longgen/train/trainer.h"
#include "tests/data/data_testing.h"

namespace longgen::train {

using data::ScratchFolder;

constexpr int64_t kLength = 64;

inline model::ModelConfig tiny_config() {
  model::ModelConfig config;
  config.vocab_size = 257;
  config.hidden_size = 32;
  config.intermediate_size = 64;
  config.num_layers = 2;
  config.num_heads = 2;
  config.num_kv_heads = 1;
  config.head_dim = 16;
  config.rotary_dim = 16;
  config.max_position_embeddings = kLength;
  config.tie_word_embeddings = true;
  model::set_full_attention(config, 16);
  return config;
}

inline TrainerOptions tiny_options(int64_t sequences_per_step = 2) {
  return {.length = kLength,
          .sequences_per_step = sequences_per_step,
          .schedule = {.lr = 3e-3, .warmup_steps = 2, .steps = 12},
          .optimizer = {.weight_decay = 0.1, .clip = 1},
          .pass = {.recompute = true, .mlp_chunk = 32, .loss_chunk = 32}};
}

// Documents of words drawn by the seed.
inline std::string random_text(uint64_t seed, int64_t words) {
  const std::vector<std::string> vocabulary = {"the ", "cat ",  "sat ", "on ",
                                               "a ",   "mat. ", "dog "};
  Rng rng(seed, 0);
  std::string text;
  for (int64_t i = 0; i < words; ++i) text += vocabulary[rng.below(vocabulary.size())];
  return text;
}

// Two files of several documents each, packed.
struct TinyData {
  explicit TinyData(data::Packing packing = data::Packing::kConcat) {
    std::string lines;
    for (int i = 0; i < 9; ++i) {
      lines += "{\"text\": \"" + random_text(static_cast<uint64_t>(i), 5 + 7 * i) + "\"}\n";
    }
    folder.write("text/a.jsonl", lines);
    folder.write("text/b.txt", random_text(77, 150));
    folder.write("text/c/d.txt", random_text(78, 90));
    corpus = std::make_unique<data::Corpus>(
        data::TokenCache(folder.path() / "cache", data::byte_encoder(), "text", true),
        std::vector<data::SourceOptions>{{.path = folder.path() / "text"}});
    packer = std::make_unique<data::Packer>(
        *corpus, corpus->documents(),
        data::PackOptions{.packing = packing, .length = kLength, .block_size = 16, .seed = 4});
  }

  ScratchFolder folder;
  std::unique_ptr<data::Corpus> corpus;
  std::unique_ptr<data::Packer> packer;
};

inline std::unique_ptr<Trainer> make_trainer(Backend& backend, DType dtype,
                                             const TrainerOptions& options,
                                             const model::ModelConfig& config = tiny_config()) {
  auto trainer = std::make_unique<Trainer>(config, backend, dtype, options, backend.memory());
  model::initialize(config, 1, trainer->optimizer().master());
  trainer->optimizer().publish_master();
  return trainer;
}

inline std::vector<std::byte> bytes_of(const model::ParameterSet& set) {
  std::vector<std::byte> bytes;
  for (const Tensor& tensor : set.tensors()) {
    const auto* data = static_cast<const std::byte*>(tensor.raw());
    bytes.insert(bytes.end(), data, data + tensor.bytes());
  }
  return bytes;
}

}  // namespace longgen::train
