#include <algorithm>

#include "longgen/base/checked.h"
#include "longgen/base/error.h"
#include "longgen/pattern/hybrid_spec.h"
#include "longgen/tokenizer/byte_tokenizer.h"
#include "longgen/train/session.h"

namespace longgen::train {
namespace {

model::ModelConfig config_from_scratch(const ModelRecipe& recipe, int64_t vocab_size) {
  for (const auto& [key, value] : {std::pair{"hidden_size", recipe.hidden_size},
                                   {"num_layers", recipe.num_layers},
                                   {"num_heads", recipe.num_heads}}) {
    if (value < 1) fail_usage("model.{}: {} is not 1 or more", key, value);
  }
  if (recipe.head_dim == 0 && recipe.hidden_size % recipe.num_heads != 0) {
    fail_usage("model.num_heads: {} does not divide model.hidden_size {}; set model.head_dim",
               recipe.num_heads, recipe.hidden_size);
  }
  model::ModelConfig config;
  config.vocab_size = vocab_size;
  config.hidden_size = recipe.hidden_size;
  config.intermediate_size =
      recipe.intermediate_size > 0
          ? recipe.intermediate_size
          : round_up(ceil_div<int64_t>(recipe.hidden_size * 8, 3), int64_t{32});
  config.num_layers = recipe.num_layers;
  config.num_heads = recipe.num_heads;
  config.num_kv_heads = recipe.num_kv_heads > 0 ? recipe.num_kv_heads : recipe.num_heads;
  config.head_dim = recipe.head_dim > 0 ? recipe.head_dim : recipe.hidden_size / recipe.num_heads;
  config.rotary_dim = config.head_dim;
  config.norm_eps = recipe.norm_eps;
  config.tie_word_embeddings = recipe.tie_word_embeddings;
  model::set_full_attention(config, recipe.block_size);
  return config;
}

// The longest document, in tokens, that training will see.
int64_t longest_document(const Recipe& recipe) {
  const auto& limits = recipe.data.max_document_tokens;
  const bool all_cut = !limits.empty() && *std::min_element(limits.begin(), limits.end()) > 0;
  if (recipe.data.packing == "concat" || !all_cut) return recipe.train.length;
  return std::min(recipe.train.length, *std::max_element(limits.begin(), limits.end()));
}

void apply_recipe(const Recipe& recipe, model::ModelConfig& config) {
  const ModelRecipe& m = recipe.model;
  if (m.rope_theta > 0) config.rope.theta = m.rope_theta;
  if (!m.hybrid.empty()) {
    config.patterns = HybridSpec::parse(m.hybrid).resolve(config.num_layers, config.num_kv_heads);
  } else if (!config.is_hybrid()) {
    model::set_full_attention(config, m.block_size);
  }
  const int64_t longest = longest_document(recipe);
  if (config.position == model::PositionKind::kLearned) {
    if (longest > config.max_position_embeddings) {
      fail_usage("train.length: the model has learned positions up to {} and cannot train at {}",
                 config.max_position_embeddings, longest);
    }
    return;
  }
  config.max_position_embeddings = m.max_position_embeddings > 0
                                       ? m.max_position_embeddings
                                       : std::max(config.max_position_embeddings, longest);
  if (longest > config.native_window) config.native_window = 0;  // another model, by training
}

}  // namespace

StartingModel open_starting_model(const Recipe& recipe) {
  StartingModel start;
  const ModelRecipe& m = recipe.model;
  if (!m.path.empty()) {
    start.file = std::make_unique<formats::ModelFile>(formats::ModelFile::open(m.path));
    if (!start.file->has_weights()) {
      fail("{}: holds no weights; name a Hugging Face directory or a GGUF file", m.path);
    }
    start.config = start.file->config();
    start.extras = start.file->extras();
    start.tokenizer = tokenizer::Tokenizer::load(*start.file);
  } else {
    start.tokenizer = m.tokenizer == "bytes"
                          ? tokenizer::make_byte_tokenizer()
                          : tokenizer::Tokenizer::load(formats::ModelFile::open(m.tokenizer));
    start.config = config_from_scratch(m, start.tokenizer->vocab_size());
    if (start.tokenizer->bos_id() >= 0) start.extras.generation.bos_id = start.tokenizer->bos_id();
    if (start.tokenizer->pad_id() >= 0) start.extras.generation.pad_id = start.tokenizer->pad_id();
    for (const int32_t id : start.tokenizer->end_of_generation_ids()) {
      start.extras.generation.eos_ids.push_back(id);
    }
  }
  if (start.tokenizer->vocab_size() > start.config.vocab_size) {
    fail("{}: the tokenizer has {} ids, the model only {}", m.path, start.tokenizer->vocab_size(),
         start.config.vocab_size);
  }
  apply_recipe(recipe, start.config);
  start.config.validate();
  return start;
}

}  // namespace longgen::train
