#include <algorithm>

#include "longgen/model/decoder.h"
#include "longgen/model/needed_rows.h"

namespace longgen::model {
namespace {

// Multiply-accumulates of the products of one token: every matrix but the embeddings, and the head
// (perhaps the token embedding itself) once.
double products_per_token(const ModelConfig& config) {
  double sum = 0;
  for (const ParamSpec& spec : param_specs(config)) {
    const bool embeds = spec.name.starts_with("model.embed_");
    if (spec.shape.size() == 2 && !embeds) sum += static_cast<double>(spec.numel());
  }
  if (config.tie_word_embeddings) {
    sum += static_cast<double>(config.vocab_size) * static_cast<double>(config.hidden_size);
  }
  return sum;
}

// FLOPs of attention over all layers and heads of one document: q.k and p.v of every pair.
double attention_flops(const ModelConfig& config, int64_t tokens, bool dense) {
  const AttentionPattern full = AttentionPattern::full(config.patterns[0].block_size);
  double pairs = 0;
  for (const AttentionPattern& pattern : config.patterns) {
    for (int64_t head = 0; head < config.num_kv_heads; ++head) {
      pairs += static_cast<double>((dense ? full : pattern).pairs(tokens, head));
    }
  }
  return 4 * pairs * static_cast<double>(config.group_size() * config.head_dim);
}

// Multiply-accumulates of a layer and one token: of keys and values, and of everything else.
struct LayerProducts {
  double keys = 0, others = 0;
};

LayerProducts layer_products(const ModelConfig& config, int64_t layer) {
  const std::string prefix = fmt::format("model.layers.{}.", layer);
  LayerProducts sum;
  for (const ParamSpec& spec : param_specs(config)) {
    if (spec.shape.size() != 2 || !spec.name.starts_with(prefix)) continue;
    const bool key = spec.name.ends_with(".k_proj.weight") || spec.name.ends_with(".v_proj.weight");
    (key ? sum.keys : sum.others) += static_cast<double>(spec.numel());
  }
  return sum;
}

}  // namespace

double count_prompt_flops(const ModelConfig& config, int64_t tokens) {
  const std::vector<NeededRows> needed = needed_rows(config, tokens - 1);
  double products =
      static_cast<double>(config.vocab_size) * static_cast<double>(config.hidden_size);
  double pairs = 0;
  for (size_t i = 0; i + 1 < needed.size(); ++i) {
    const LayerProducts layer = layer_products(config, static_cast<int64_t>(i));
    const NeededRows& outputs = needed[i + 1];
    products += static_cast<double>(needed[i].count(tokens)) * layer.keys +
                static_cast<double>(outputs.count(tokens)) * layer.others;
    const int64_t head = std::min(outputs.head, tokens);
    for (int64_t h = 0; h < config.num_kv_heads; ++h) {
      pairs +=
          static_cast<double>(config.patterns[i].pairs(0, head, h) +
                              config.patterns[i].pairs(std::max(head, outputs.tail), tokens, h));
    }
  }
  return 2 * products + 4 * pairs * static_cast<double>(config.group_size() * config.head_dim);
}

FlopCount count_flops(const ModelConfig& config, int64_t tokens,
                      std::span<const DocumentRange> documents) {
  const DocumentRange whole{0, tokens};
  if (documents.empty()) documents = {&whole, 1};
  double attention = 0, dense = 0;
  for (const DocumentRange& document : documents) {
    attention += attention_flops(config, document.row_count, false);
    dense += attention_flops(config, document.row_count, true);
  }
  const double products = 2 * static_cast<double>(tokens) * products_per_token(config);
  return {.forward = products + attention,
          .forward_dense = products + dense,
          .train = 3 * products + 3.5 * attention,
          .train_dense = 3 * products + 3.5 * dense};
}

}  // namespace longgen::model
